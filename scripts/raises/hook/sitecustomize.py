"""Python runs this at its start when the folder is on its path: every process of the suite."""

from scripts.raises.sites import watch

watch()
