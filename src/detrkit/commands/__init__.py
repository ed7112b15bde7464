"""The command line: one file a command, each of them thin. Nothing heavy is imported before a command runs."""
