"""SQLAlchemy's ORM with its defaults, on psycopg and on asyncpg, in transaction pooling."""

import asyncio
import datetime
import enum
import sys
import threading
import uuid

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, joinedload, mapped_column, relationship, selectinload


class Base(DeclarativeBase):
    pass


class Role(enum.Enum):
    member = "member"
    owner = "owner"


class Organization(Base):
    __tablename__ = "orm_organization"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    version: Mapped[int] = mapped_column()
    members: Mapped[list["Member"]] = relationship(back_populates="organization", cascade="all, delete-orphan")
    __mapper_args__ = {"version_id_col": version}


class Member(Base):
    __tablename__ = "orm_member"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    organization_id: Mapped[int] = mapped_column(sa.ForeignKey("orm_organization.id"))
    organization: Mapped[Organization] = relationship(back_populates="members")
    name: Mapped[str]
    role: Mapped[Role] = mapped_column(default=Role.member)
    tags: Mapped[list[str]] = mapped_column(ARRAY(sa.Text), default=list)
    data: Mapped[dict] = mapped_column(JSONB, default=dict)
    joined: Mapped[datetime.datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())


def organization(name, members):
    rows = [Member(name=f"{name} {number}", tags=["a", "ü"], data={"number": number}) for number in range(members)]
    return Organization(name=name, members=rows)


def loaded(name):
    return sa.select(Organization).where(Organization.name == name).options(selectinload(Organization.members))


def relationships(engine):
    with Session(engine) as session, session.begin():
        session.add_all([organization("one", 500), organization("two", 3)])
    with Session(engine) as first, Session(engine) as second:
        one, two = first.scalars(loaded("one")).one(), second.scalars(loaded("two")).one()
        assert (len(one.members), len(two.members)) == (500, 3)
        assert sorted(member.data["number"] for member in one.members) == list(range(500))
        moved = one.members[0]
        moved.role = Role.owner
        first.commit()
        # Expired by the commit, and loaded again, on whichever server comes next.
        assert moved.role is Role.owner and moved.organization.name == "one"
        joined = sa.select(Member).options(joinedload(Member.organization)).where(Member.role == Role.owner)
        assert second.scalars(joined).one().organization.name == "one"
        second.delete(two)
        second.commit()
        assert first.scalar(sa.select(sa.func.count()).select_from(Member)) == 500


def lost_updates(engine):
    with Session(engine) as first, Session(engine) as second:
        ours, theirs = (session.scalars(loaded("one")).one() for session in (first, second))
        ours.name, theirs.name = "ours", "theirs"
        first.commit()
        try:
            second.commit()
            raise AssertionError("an update was lost")
        except sa.orm.exc.StaleDataError:
            second.rollback()
        ours.name = "one"
        first.commit()


def savepoints(engine):
    with Session(engine) as session:
        session.add(organization("three", 1))
        session.flush()
        try:
            with session.begin_nested():
                session.add(organization("one", 1))
                session.flush()
            raise AssertionError("the name is taken")
        except sa.exc.IntegrityError:
            pass
        with session.begin_nested():
            session.add(organization("four", 1))
        session.commit()
        names = session.scalars(sa.select(Organization.name).order_by(Organization.name)).all()
        assert names == ["four", "one", "three"], names


def server_side_cursors(engine):
    """Two of them at the same time, one in the middle of the other."""
    statement = sa.select(Member).where(Member.name.like("one %")).execution_options(yield_per=50)
    with Session(engine) as outer, Session(engine) as inner:
        count = 0
        for member in outer.scalars(statement):
            if count % 100 == 0:
                assert sum(1 for _ in inner.scalars(statement)) == 500
                inner.rollback()
            count += 1
        assert count == 500
    with engine.connect() as connection:
        rows = connection.execution_options(stream_results=True, max_row_buffer=10).execute(sa.text("SELECT generate_series(1, 1000)"))
        assert sum(row[0] for row in rows) == 500_500


def isolation_levels(engine):
    level = sa.text("SELECT current_setting('transaction_isolation')")
    for isolation, expected in [("SERIALIZABLE", "serializable"), ("REPEATABLE READ", "repeatable read"), ("AUTOCOMMIT", "read committed")]:
        with engine.connect().execution_options(isolation_level=isolation) as connection:
            assert connection.scalar(level) == expected, isolation
    with engine.connect() as connection:
        assert connection.scalar(level) == "read committed"
    with Session(engine) as session:
        session.execute(sa.text("SET LOCAL statement_timeout = '7s'"))
        assert session.scalar(sa.text("SHOW statement_timeout")) == "7s"
        session.commit()
        assert session.scalar(sa.text("SHOW statement_timeout")) == "0"


def locks(engine):
    """As a queue of jobs is built: each worker takes rows that no other one has."""
    taken, lock = [], threading.Lock()

    def work():
        for _ in range(10):
            with Session(engine) as session, session.begin():
                jobs = sa.select(Member).where(Member.role == Role.member).limit(5).with_for_update(skip_locked=True)
                rows = session.scalars(jobs).all()
                for row in rows:
                    row.role = Role.owner
                with lock:
                    taken.extend(row.id for row in rows)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 200, len(taken)


def reflection(engine):
    inspector = sa.inspect(engine)
    assert {"orm_member", "orm_organization"} <= set(inspector.get_table_names())
    [key] = inspector.get_foreign_keys("orm_member")
    assert key["referred_table"] == "orm_organization"
    tables = sa.MetaData()
    tables.reflect(engine, only=["orm_member"])
    assert isinstance(tables.tables["orm_member"].c.data.type, JSONB)


def with_psycopg(url):
    engine = sa.create_engine(url.replace("postgres://", "postgresql+psycopg://"))
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    for test in [relationships, lost_updates, savepoints, server_side_cursors, isolation_levels, locks, reflection]:
        test(engine)
        print("psycopg", test.__name__)
    Base.metadata.drop_all(engine)
    engine.dispose()


async def one_session(engine, number):
    async with AsyncSession(engine) as session:
        session.add(organization(f"async {number}", 20))
        await session.flush()
        try:
            async with session.begin_nested():
                session.add(organization(f"async {number}", 1))
                await session.flush()
        except sa.exc.IntegrityError:
            pass
        await session.commit()
        row = (await session.scalars(loaded(f"async {number}"))).one()
        assert len(row.members) == 20
        stream = await session.stream_scalars(
            sa.select(Member).where(Member.organization_id == row.id).execution_options(yield_per=5)
        )
        assert len([member.name async for member in stream]) == 20
        await session.delete(row)
        await session.commit()


async def with_asyncpg(url):
    engine = create_async_engine(url.replace("postgres://", "postgresql+asyncpg://"))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    for _ in range(3):
        await asyncio.gather(*(one_session(engine, number) for number in range(8)))
    async with AsyncSession(engine) as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(Member)) == 0
    # New types of a table that its prepared statements know.
    async with engine.begin() as connection:
        await connection.execute(sa.text("ALTER TABLE orm_organization ADD note text"))
    await asyncio.gather(*(one_session(engine, number) for number in range(8)))
    await engine.dispose()
    print("asyncpg")


def main(url):
    with_psycopg(url)
    asyncio.run(with_asyncpg(url))


main(sys.argv[1])
