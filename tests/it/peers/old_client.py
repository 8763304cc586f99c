"""The client of asymmetric_jwt_auth before 1.0, from PyPI, unchanged: its own `create_auth_header`.

    old_client.py USERNAME PRIVATE_KEY_FILE COUNT    one Authorization header per line
"""

import sys

from asymmetric_jwt_auth import create_auth_header

username, key_file, count = sys.argv[1:]
for _ in range(int(count)):
    print(create_auth_header(username, key_file=key_file))
