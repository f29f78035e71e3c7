"""`esper audit` as a script: what keeps a torch file from loading with weights_only=True."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout that is not installed, too

from esper.checkpoint.audit import audit_checkpoint, audit_value, get_environment_info, iterative_audit
from esper.cli.commands import audit_main

__all__ = ["audit_checkpoint", "audit_value", "get_environment_info", "iterative_audit"]

if __name__ == "__main__":
    sys.exit(audit_main())
