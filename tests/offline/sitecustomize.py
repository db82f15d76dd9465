"""Python imports this by itself at the start of every notebook kernel that a test starts."""

import loopback_only

loopback_only.block()
