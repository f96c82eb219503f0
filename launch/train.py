"""deepspeed launch/train.py --recipe FILE [section.key=value ...]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bigpeft.cli.train import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
