import sys
from fastdeploy.args import parse_args
print(parse_args(sys.argv[1:], modern=False, error=print, warning=print))
