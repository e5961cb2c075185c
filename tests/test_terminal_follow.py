"""alembic-audit tail --follow: each record once, as it is committed; and how it ends."""

import csv
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from alembic_audit.cli import main
from tests.conftest import Database
from tests.pages import DOCS
from tests.test_terminal import Shop, models, write, write_by_hand

BACKENDS = (
    "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND application_name = 'follower'"
)


class Follower:
    """A process that follows, and the lines that it printed so far."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._rest = ""

    def read(self, count: int) -> list[str]:
        """Return the next lines; fail where they do not come."""
        assert self.process.stdout is not None
        end = time.monotonic() + 20
        while len(self.lines) < count:
            ready, _, _ = select.select([self.process.stdout], [], [], end - time.monotonic())
            assert ready, (self.lines, self.process.poll())
            found = os.read(self.process.stdout.fileno(), 65536).decode()
            assert found, (self.lines, self.process.communicate())
            *whole, self._rest = (self._rest + found).split("\n")
            self.lines += whole
        taken, self.lines = self.lines[:count], self.lines[count:]
        return taken

    def numbers(self, count: int) -> list[int]:
        """Return the numbers of the next records, printed as JSON."""
        return [json.loads(line)["audit_id"] for line in self.read(count)]

    def end(self, number: int) -> tuple[str, str, int]:
        """Send a signal; return what is left of both outputs, and the exit code."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return (
            "".join(line + "\n" for line in self.lines) + self._rest + out,
            err,
            self.process.returncode,
        )


@contextmanager
def following(shop: Shop, *options: str) -> Iterator[Follower]:
    """Follow with a process of its own, which is at work when this returns."""
    url = sa.make_url(shop.url).update_query_dict({"application_name": "follower"})
    command = [sys.executable, "-W", "error", "-m", "alembic_audit", "tail", "--follow"]
    with subprocess.Popen(
        [*command, *options, "--url", url.render_as_string(hide_password=False)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=DOCS.parent,
    ) as process:
        try:
            yield Follower(process)
        finally:
            process.kill()


@pytest.fixture
def shop(database: Database) -> Iterator[Shop]:
    """A database with one record."""
    made = Shop(database)
    write(made.engine, models(), "INSERT INTO account VALUES (0)")
    yield made
    database.engine.dispose()


def insert(shop: Shop, number: int) -> None:
    write_by_hand(shop, f"INSERT INTO account VALUES ({number})")


def test_what_is_printed(shop: Shop) -> None:
    """The newest records first, then each that comes, in the form that was asked for."""
    with following(shop, "--interval", "0.05", "-n", "1") as plain:
        names, first = plain.read(2)
        insert(shop, 1)
        (second,) = plain.read(1)
    assert "table\t#\twhen\ttx\trole\tsettings\tdid\twhat" == names
    assert ["public.account", "1"] == first.split("\t")[:2]
    assert ["inserted", "id: 1"] == second.split("\t")[-2:]
    with following(shop, "--interval", "0.05", "--csv", "account") as table:
        table.read(3)
        write_by_hand(shop, "UPDATE account SET email = E'a\\tb\\nc' WHERE id = 1")
        (row,) = csv.reader(table.read(1))
    assert ({"id": "1", "email": "a\tb\nc", "city": None}, "email") == (
        json.loads(row[-2]),
        row[-1],
    )


def test_transactions_that_overlap(shop: Shop) -> None:
    """Who committed late is not passed over, and nothing comes twice."""
    with (
        following(shop, "--interval", "0.02", "--json") as follower,
        shop.engine.connect() as slow,
        shop.engine.connect() as fast,
    ):
        assert [1] == follower.numbers(1)
        slow.exec_driver_sql("INSERT INTO account VALUES (1)")  # 2
        fast.exec_driver_sql("INSERT INTO account VALUES (2)")  # 3
        fast.commit()
        slow.exec_driver_sql("INSERT INTO account VALUES (3)")  # 4
        time.sleep(0.2)
        slow.commit()
        assert [2, 3, 4] == sorted(follower.numbers(3))
        insert(shop, 4)
        assert [5] == follower.numbers(1)


def test_a_transaction_that_is_older(shop: Shop) -> None:
    """One that wrote before there was a follower, and is committed after, is printed."""
    with shop.engine.connect() as slow, shop.engine.connect() as fast:
        slow.exec_driver_sql("INSERT INTO account VALUES (1)")  # 2
        fast.exec_driver_sql("INSERT INTO account VALUES (2)")  # 3
        fast.commit()
        with following(shop, "--interval", "0.02", "--json") as follower:
            assert [1] == follower.numbers(1)
            insert(shop, 3)
            time.sleep(0.2)
            slow.commit()
            assert [2, 3, 4] == sorted(follower.numbers(3))
            write_by_hand(shop, "TRUNCATE account")
            assert [5] == follower.numbers(1)


def test_a_transaction_above_all_that_ended(shop: Shop) -> None:
    """It is in no snapshot yet; its record has a lower number than one that was committed."""
    with shop.engine.connect() as slow, shop.engine.connect() as fast:
        fast.exec_driver_sql("SELECT txid_current()")
        slow.exec_driver_sql("INSERT INTO account VALUES (1)")  # 2
        fast.exec_driver_sql("INSERT INTO account VALUES (2)")  # 3
        fast.commit()
        with following(shop, "--interval", "0.02", "--json") as follower:
            assert [1, 3] == follower.numbers(2)
            slow.commit()
            assert [2] == follower.numbers(1)
            insert(shop, 3)
            assert [4] == follower.numbers(1)


def test_writers(shop: Shop) -> None:
    """Under writers that commit, roll back and overlap as they like, each record comes once."""

    def work(who: int) -> None:
        with shop.engine.connect() as connection:
            for number in range(60):
                connection.exec_driver_sql(
                    f"INSERT INTO account VALUES ({100 * who + number}); "
                    f"UPDATE account SET city = 'x' WHERE id = {100 * who + number - 1}"
                )
                if number % 3 == 2:
                    (connection.rollback if number % 5 == 2 else connection.commit)()
            connection.commit()

    with following(shop, "--interval", "0.01", "--json", "account") as follower:
        follower.read(1)
        writers = [threading.Thread(target=work, args=(who,)) for who in range(1, 5)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        with shop.engine.connect() as connection:
            expected = connection.scalars(
                sa.text("SELECT audit_id FROM account_audit WHERE audit_id > 1 ORDER BY 1")
            ).all()
        assert 300 < len(expected)
        assert expected == sorted(follower.numbers(len(expected)))
        time.sleep(0.1)
        assert ("", "", 130) == follower.end(signal.SIGINT)


def test_ctrl_c(shop: Shop) -> None:
    """Ctrl-C ends it without a word; meanwhile it kept no transaction open."""
    with following(shop, "--interval", "60") as follower:
        follower.read(2)
        for _ in range(100):  # a server that is busy tells its state late
            with shop.engine.connect() as connection:
                states = connection.exec_driver_sql(f"SELECT state {BACKENDS}").scalars().all()
            if ["idle"] == states:
                break
            time.sleep(0.05)
        assert ["idle"] == states
        assert ("", "", 130) == follower.end(signal.SIGINT)


def test_closed_pipe(shop: Shop) -> None:
    """Who has seen enough need not wait for another record, nor for the next look."""
    with following(shop, "--interval", "60") as follower:
        follower.read(2)
        assert follower.process.stdout is not None and follower.process.stderr is not None
        follower.process.stdout.close()
        assert 141 == follower.process.wait(timeout=20)
        assert "" == follower.process.stderr.read()


def test_lost_connection(shop: Shop) -> None:
    """A connection that is gone is one line, and 2."""
    with following(shop, "--interval", "0.05") as follower:
        follower.read(2)
        write_by_hand(shop, f"SELECT pg_terminate_backend(pid) {BACKENDS}")
        out, err = follower.process.communicate(timeout=20)
    assert "" == out
    assert re.fullmatch(r"alembic-audit: the connection is lost: \w[^\n]*\n", err), err
    assert 2 == follower.process.returncode


def test_a_trail_that_is_dropped(shop: Shop) -> None:
    """A table that goes away meanwhile is one line, and 2."""
    with following(shop, "--interval", "0.05") as follower:
        follower.read(2)
        write_by_hand(shop, "DROP TABLE account CASCADE; DROP TABLE account_audit CASCADE")
        out, err = follower.process.communicate(timeout=20)
    assert ("", 2) == (out, follower.process.returncode)
    assert 'alembic-audit: relation "public.account_audit" does not exist\n' == err


def test_a_restored_dump(shop: Shop) -> None:
    """Records whose transactions lie in the future are shown once, as what was there before."""
    write_by_hand(shop, "UPDATE account_audit SET audit_transaction_id = 9000000000")
    with following(shop, "--interval", "0.02", "--json") as follower:
        assert [1] == follower.numbers(1)
        insert(shop, 1)
        assert [2] == follower.numbers(1)


def test_what_a_look_reads(shop: Shop) -> None:
    """Looking for new records reads the end of the trail, however long that is."""
    write_by_hand(
        shop,
        "INSERT INTO account_audit (audit_operation, audit_operation_timestamp, "
        "audit_transaction_id, audit_current_user, id) "
        "SELECT 'I', clock_timestamp(), 1, 'x', n FROM generate_series(1, 50000) n",
    )
    write_by_hand(shop, "ANALYZE account_audit")
    read = "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables "
    read += "WHERE relname = 'account_audit'"
    with following(shop, "--interval", "0.02", "--json", "-n", "1") as follower:
        follower.read(1)
        insert(shop, 1)
        follower.read(1)
        time.sleep(1.5)  # until statistics are sent
        plain = shop.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        with plain as connection:
            before = connection.exec_driver_sql(read).scalar_one()
            for number in range(2, 12):
                insert(shop, number)
                follower.read(1)
            time.sleep(1.5)
            insert(shop, 12)
            follower.read(1)
            time.sleep(0.5)
            assert connection.exec_driver_sql(read).scalar_one() - before < 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--interval", "1"], "alembic-audit: --interval goes with --follow\n"),
        (["--follow", "--interval", "0"], "0 is no interval; write seconds, as 0.5\n"),
        (["--follow", "--interval", "x"], "argument --interval: invalid _interval value: 'x'\n"),
    ],
)
def test_interval(
    shop: Shop, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is no interval, or is one of nothing, is refused."""
    try:
        code = main(["tail", *options, "--url", shop.url])
    except SystemExit as error:
        code = error.code  # type: ignore[assignment]
    assert 2 == code
    assert capsys.readouterr().err.endswith(message)
