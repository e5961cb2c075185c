import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_demo_tells_its_whole_story_in_plain_text_when_piped() -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"}
    }
    done = subprocess.run(
        [sys.executable, "-m", "tools.demo"],
        cwd=ROOT,
        env=environment | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert re.findall(r"^(\d\. .*?) ─+$", done.stdout, re.MULTILINE) == [
        "1. A model that wants a trail",
        "2. The migration that autogenerate writes for it",
        "3. Two people at work, and the trail they leave",
        "4. The model changes, and the trail with it",
        "5. A downgrade that gives the old trail back",
        "6. A trigger disabled behind our back",
    ]
    parts = re.split(r"^\d\. ", done.stdout, flags=re.MULTILINE)
    assert "@audited(" in parts[1]
    assert "op.create_audit_trigger(" in parts[2]
    last = [re.findall(r"│ (alice|bob) +│ (\w+)", part) for part in parts[3:]]
    assert last[0] == [
        ("alice", "inserted"),
        ("alice", "inserted"),
        ("bob", "updated"),
        ("bob", "updated"),
        ("alice", "deleted"),
    ]
    assert "session setting audit.username is not set" in parts[3]
    assert "op.replace_audit_trigger(" in parts[4]
    assert last[1] == [*last[0], ("bob", "updated")]
    assert "byte for byte" in parts[5]
    before, between, after = re.findall(r"│ 000\d.*?│(.*)│", parts[5])
    assert before == after != between
    assert "00_audit_account" in parts[6].split("$ alembic check")[1]
    assert "op.replace_audit_trigger(" in parts[6]
    assert "No new upgrade operations detected." in parts[6]
    assert last[3] == [*last[1], ("alice", "updated")]
