"""python -m minimtp"""

import sys

from minimtp.cli import main

sys.exit(main())
