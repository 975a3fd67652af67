"""``python -m napari_ssldiff.cli``."""

import sys

from napari_ssldiff.cli import main

sys.exit(main())
