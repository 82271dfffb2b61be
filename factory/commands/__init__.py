"""The commands of the command line, thin: parse, call, print. Nothing heavy is imported here."""
