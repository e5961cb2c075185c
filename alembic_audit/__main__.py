"""``python -m alembic_audit``."""

import sys

if __name__ == "__main__":
    from alembic_audit.cli import main

    sys.exit(main())
