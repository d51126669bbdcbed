"""`python -m hope_server`: the same as `hope`."""

import sys

from hope_server.cli import main

sys.exit(main())
