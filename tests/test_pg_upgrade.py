"""pg_upgrade from the oldest PostgreSQL to the one in use."""

from pathlib import Path

import pytest

from tests import dumps
from tests.catalogs import snapshot
from tests.conftest import OLDEST, Database
from tools import postgres

KINDS = ("functions", "triggers", "sequences", "indexes", "columns")
"""What is the same in every major; privileges and constraints are more from one to the next."""


def bindirs() -> tuple[Path, Path]:
    """Return where the binaries of both majors are, or skip."""
    new = postgres.binaries()
    try:
        old = postgres.of_major(OLDEST)
    except postgres.ServerError as error:
        pytest.skip(str(error))
    if postgres.version_text(new).startswith(f"{OLDEST}."):
        pytest.skip(f"PostgreSQL {OLDEST} is the one in use")
    for bindir in (old, new):
        if not (bindir / "pg_upgrade").exists():
            pytest.skip(f"no pg_upgrade in {bindir}")
    return old, new


def upgrade(former: postgres.Server, cluster: postgres.Cluster) -> None:
    """Run what docs/backups.md says."""
    assert former.cluster is not None
    places: dict[str, object] = {
        "/usr/lib/postgresql/14/bin": former.cluster.bindir,
        "/usr/lib/postgresql/18/bin": cluster.bindir,
        "/srv/14": former.cluster.data,
        "/srv/18": cluster.data,
    }
    if int(postgres.version_text(cluster.bindir).split(".")[0]) < 18:
        places[" --no-data-checksums"] = ""
    script = dumps.from_the_page("upgrade", places)
    cluster.run("sh", "-ec", script, others=[former.cluster.bindir])


@pytest.mark.core
def test_upgrade(tmp_path: Path) -> None:
    """Nothing is lost, nothing differs, and numbers and transaction ids go on."""
    old, new = bindirs()
    with postgres.server(old) as former:
        former.run("psql", "-Xc", f"CREATE ROLE {dumps.KEEPER}")
        former.create_database("shop")
        source = dumps.project_in(tmp_path / "old", Database("shop", former))
        dumps.start(source)
        rows, catalog = dumps.rows(source), snapshot(source.engine)
        former.stop()
        with postgres.server(new, fill=lambda cluster: upgrade(former, cluster)) as upgraded:
            project = dumps.same_project(source, tmp_path / "new", Database("shop", upgraded))
            assert former.version < upgraded.version
            assert rows == dumps.rows(project)
            project.check(dumps.models())
            found = snapshot(project.engine)
            for kind in KINDS:
                assert catalog[kind] == found[kind]
            dumps.check_that_it_goes_on(project)
            ids = project.rows("SELECT audit_transaction_id FROM account_audit ORDER BY audit_id")
            assert sorted(ids) == ids
