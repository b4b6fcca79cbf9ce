"""python -m vaelens"""

from vaelens.cli import main

main()
