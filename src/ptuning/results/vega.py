"""The JavaScript that draws Vega-Lite specifications in a page: Vega, Vega-Lite and Vega-Embed in one text."""

import re
from importlib.metadata import version

from ptuning.system.cached_files import read_cached, write_cached
from ptuning.system.files import cache_folder

_SNIPPET = "window.vegaEmbed = vegaEmbed;"
_LARGEST = 8 << 20
"""Bytes."""


def vega_bundle() -> str:
    """Return the script that defines ``vegaEmbed``, ready to stand in a page's ``<script>``.

    vl-convert takes seconds to make it, so it is kept in the cache: for this user alone, as it is code.
    """
    kept = cache_folder() / "vega" / f"embed-{version('vl-convert-python')}.js"
    content = read_cached(kept, _LARGEST, private=True)
    if content is None:
        import vl_convert

        content = _in_a_page(vl_convert.javascript_bundle(_SNIPPET)).encode()
        write_cached(kept, content, private=True)
    return content.decode()


def _in_a_page(script: str) -> str:
    r"""Return a script that HTML reads as it is: no end of the element inside of it, and line ends that it keeps.

    >>> _in_a_page('"</script>"')
    '"<\\/script>"'
    """
    script = script.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"<(/script|!--)", r"<\\\1", script, flags=re.IGNORECASE)
