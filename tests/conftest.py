"""Every test runs with the shapes and types of the package checked."""

from jaxtyping import install_import_hook

install_import_hook("posneurons", "checked.beartype")
