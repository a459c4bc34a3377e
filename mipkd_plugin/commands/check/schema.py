"""``mipkd check --schema``: the option file as a JSON schema, for editors."""

from __future__ import annotations

import json
from collections.abc import Sequence


def schema_text(imports: Sequence[str] = ()) -> str:
    """The schema of all that is registered now.

    Args:
        imports: The files and modules that were imported for it.

    Returns:
        JSON text that ends with a line break.
    """
    from mipkd_plugin.compare.schema import compare_schema
    from mipkd_plugin.config.schema import option_file_schema

    return json.dumps(option_file_schema(imports, {'compare': compare_schema()}), indent=1, ensure_ascii=False) + '\n'
