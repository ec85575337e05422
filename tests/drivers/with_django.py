"""Django's ORM with its defaults (connections of their own in each thread, server-side cursors) in transaction pooling."""

import sys
import threading
from decimal import Decimal
from urllib.parse import urlsplit

import django
from django.conf import settings

url = urlsplit(sys.argv[1])
database = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": url.path.strip("/"),
    "USER": url.username,
    "HOST": url.hostname,
    "PORT": url.port,
}
settings.configure(
    DATABASES={
        "default": database,
        "bound": database | {"OPTIONS": {"server_side_binding": True}},
        "serializable": database | {"OPTIONS": {"isolation_level": 4}},
    },
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.postgres", "shop"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    TIME_ZONE="Europe/Berlin",
    USE_TZ=True,
)
django.setup()

from django.contrib.auth.models import Group, Permission, User
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, connection, connections, transaction
from django.db.models import Count, F, Sum

from shop.models import Customer, Order, Product


def migrations():
    call_command("migrate", verbosity=0)
    assert Permission.objects.filter(codename="add_order").exists()
    assert Customer.objects.get(tags__contains=["migrated"]).name == "the first"
    # There and back again.
    call_command("migrate", "shop", "0001", verbosity=0)
    call_command("migrate", "shop", verbosity=0)
    Customer.objects.all().delete()
    call_command("makemigrations", "--check", "--dry-run")


def relations():
    customers = Customer.objects.bulk_create([Customer(name=f"customer {n}", tags=["x"] * (n % 3)) for n in range(300)])
    products = Product.objects.bulk_create([Product(name=f"product {n}", data={"price": n}) for n in range(20)])
    for number, customer in enumerate(customers[:50]):
        order = customer.orders.create()
        order.products.set(products[: number % 20])
    counted = Order.objects.annotate(count=Count("products")).aggregate(Sum("count"))
    assert counted == {"count__sum": sum(number % 20 for number in range(50))}, counted
    fetched = Customer.objects.prefetch_related("orders__products").get(name="customer 49")
    assert len(fetched.orders.all()[0].products.all()) == 9
    assert Product.objects.filter(data__price__gt=17).count() == 2
    user = User.objects.create_user("ann", password="secret")
    user.groups.add(Group.objects.create(name="buyers"))
    assert User.objects.filter(groups__name="buyers").get().check_password("secret")


def transactions():
    with transaction.atomic():
        Customer.objects.filter(name="customer 0").update(balance=F("balance") + 10)
        try:
            with transaction.atomic():
                Customer.objects.filter(name="customer 0").update(balance=F("balance") + 100)
                Customer.objects.create(name="customer 1")
            raise AssertionError("the name is taken")
        except IntegrityError:
            pass
    assert Customer.objects.get(name="customer 0").balance == Decimal(10)
    done = []
    try:
        with transaction.atomic():
            transaction.on_commit(lambda: done.append("wrong"))
            Customer.objects.all().delete()
            raise KeyError
    except KeyError:
        pass
    assert Customer.objects.count() == 300 and done == []


def transfers():
    """Each takes both rows in the same order; nothing is lost."""

    def work(number):
        for step in range(20):
            with transaction.atomic():
                names = [f"customer {2 + (number + step) % 5}", "customer 7"]
                rows = list(Customer.objects.select_for_update().filter(name__in=names).order_by("id"))
                for row, amount in zip(rows, (-1, 1)):
                    row.balance += amount
                    row.save()
        connection.close()

    run_in_threads(work)
    assert Customer.objects.get(name="customer 7").balance == 80
    with transaction.atomic():
        held = Customer.objects.select_for_update().get(name="customer 9")
        assert run_in_threads(lambda _: locked_by_another(held.pk), 1) == [True]


def locked_by_another(key):
    try:
        with transaction.atomic():
            Customer.objects.select_for_update(nowait=True).get(pk=key)
        return False
    except DatabaseError:
        return True
    finally:
        connection.close()


def server_side_cursors():
    """In autocommit they are WITH HOLD, and outlive the statement that opens them."""
    outer = Customer.objects.order_by("id").iterator(chunk_size=50)
    count = 0
    for customer in outer:
        if count % 100 == 0:
            assert sum(1 for _ in Customer.objects.using("bound").iterator(chunk_size=7)) == 300
            Customer.objects.filter(pk=customer.pk).update(balance=F("balance"))
        count += 1
    assert count == 300
    with transaction.atomic():
        assert sum(1 for _ in Order.objects.prefetch_related("products").iterator(chunk_size=9)) == 50


def many_threads():
    def work(number):
        for step in range(25):
            name = f"thread {number} {step}"
            Customer.objects.create(name=name)
            assert Customer.objects.using("bound").get(name=name).balance == 0
            assert Customer.objects.filter(name=name).delete()[0] == 1
        connections.close_all()

    run_in_threads(work)


def settings_of_connections():
    with transaction.atomic("serializable"), connections["serializable"].cursor() as cursor:
        cursor.execute("SELECT current_setting('transaction_isolation'), current_setting('TimeZone')")
        assert cursor.fetchone() == ("serializable", "UTC")
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('transaction_isolation')")
        assert cursor.fetchone() == ("read committed",)
    assert "shop_customer" in connection.introspection.table_names()


def run_in_threads(work, count=4):
    results = []
    threads = [threading.Thread(target=lambda number=number: results.append(work(number))) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == count, "a thread failed"
    return results


def main():
    tests = [migrations, relations, transactions, transfers, server_side_cursors, many_threads, settings_of_connections]
    for test in tests:
        test()
        print(test.__name__)


main()
