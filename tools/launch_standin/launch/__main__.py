"""``python -m launch FILE arg:=value ... [--show-args] [--print]`` with the stand-in's folder on PYTHONPATH."""

import sys

from launch_standin import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
