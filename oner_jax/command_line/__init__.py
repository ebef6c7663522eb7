"""How programs are started: flags, help, recipes named on the command line, exit codes."""
