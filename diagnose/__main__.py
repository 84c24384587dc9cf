"""``python -m diagnose`` is the command ``diagnose``."""

import sys

from diagnose.cli.main import main

sys.exit(main())
