"""Every test runs with the shapes and types of the package checked, and may take its time on a busy machine."""

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("posneurons", "checked.beartype")
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
