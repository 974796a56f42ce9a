"""Options that several commands have."""

from __future__ import annotations

from typing import Final

from cyclopts import Parameter

DATABASE_URL: Final = Parameter(
    help="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE; missing tables are created.",
    env_var="ZOTIFY_DATABASE_URL",
)
