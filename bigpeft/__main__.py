"""python -m bigpeft"""

from bigpeft.cli import main

main()
