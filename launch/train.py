"""deepspeed launch/train.py --recipe FILE [section.key=value ...]"""

import sys

from bigpeft.cli.train import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
