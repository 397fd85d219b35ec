"""The `cflow` command, which composes both packages."""
