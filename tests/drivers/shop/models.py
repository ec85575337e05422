"""The models of with_django.py, as they are after both migrations."""

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models


class Customer(models.Model):
    name = models.TextField(unique=True)
    balance = models.DecimalField(max_digits=12, decimal_places=2, default=0)
    tags = ArrayField(models.TextField(), default=list)

    class Meta:
        indexes = [GinIndex(fields=["tags"], name="customer_tags")]


class Product(models.Model):
    name = models.TextField()
    data = models.JSONField(default=dict)


class Order(models.Model):
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, related_name="orders")
    products = models.ManyToManyField(Product)
    placed = models.DateTimeField(auto_now_add=True)
