#!/bin/sh
# Print the first Python that is new enough: $1 if given, else what is on the PATH.
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'
for python in ${1:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
    if "$python" -c "$new_enough" >/dev/null 2>&1; then
        command -v "$python"
        exit 0
    fi
done
if [ -n "$1" ]; then
    echo "PYTHON=$1 is not a Python 3.11 or newer, or does not start." >&2
else
    echo "This course needs Python 3.11 or newer, and none was found on the PATH." >&2
fi
echo "Install one (https://www.python.org/downloads/) or name it: make PYTHON=/path/to/python3.12" >&2
exit 1
