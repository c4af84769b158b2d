"""Options that say how a prompt table is read, and what its columns mean."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from jobs.option_groups import OptionGroup
from jobs.option_values import parse_pairs

_INPUT = "What to read"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions(OptionGroup):
    """How to read a prompt table."""

    format: Annotated[
        str | None,
        typer.Option(
            help="parquet, csv, tsv, jsonl, json, txt or openai-batch; by default from the suffix.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    delimiter: Annotated[
        str | None,
        typer.Option(
            metavar="CHARACTER",
            help="Delimiter of CSV cells, or tab; by default found from the first lines.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    encoding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Character encoding of text files, such as cp1252; by default UTF-8, or what a byte order"
            " mark says.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    fill_down: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN,COLUMN",
            help="Fill empty cells of these columns with the value above; repeatable.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    map: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=COLUMN",
            help="Read a field from this column, or from none with FIELD=; repeatable.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Do not copy this column to the output; repeatable.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    key: Annotated[
        str | None,
        typer.Option(
            help='Build the row\'s key from columns: "{{category}}-{{id}}" (Jinja2).',
            rich_help_panel=_INPUT,
        ),
    ] = None
    template: Annotated[
        str | None,
        typer.Option(
            help='Build the prompt from columns: "Studio photo of {{brand}} {{title}}" (Jinja2).',
            rich_help_panel=_INPUT,
        ),
    ] = None
    where: Annotated[
        str | None,
        typer.Option(
            help="Keep only rows for which this Jinja2 expression is true: \"category == 'shoes'\".",
            rich_help_panel=_INPUT,
        ),
    ] = None
    limit: Annotated[int | None, typer.Option(help="Use at most this many rows.", rich_help_panel=_INPUT)] = (
        None
    )
    image_root: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder that image paths are relative to and may not leave; by default the table's.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    allow_urls: Annotated[
        bool,
        typer.Option("--allow-urls", help="Fetch images from public web addresses.", rich_help_panel=_INPUT),
    ] = False
    trust_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST[:PORT]",
            help="Also fetch images from this host, even if its address is not public; repeatable.",
            rich_help_panel=_INPUT,
        ),
    ] = None

    def values(self) -> dict[str, Any]:
        """Return the fields of GenerateOptions."""
        return {
            "input_format": self.format,
            "delimiter": self.delimiter,
            "text_encoding": self.encoding,
            "fill_down": tuple(
                name.strip() for names in self.fill_down or () for name in names.split(",") if name.strip()
            ),
            "key": self.key,
            "columns": parse_pairs(self.map or [], field="map", form="FIELD=COLUMN", may_be_empty=True),
            "drop": tuple(self.drop or ()),
            "template": self.template,
            "where": self.where,
            "limit": self.limit,
            "image_root": self.image_root,
            "allow_urls": self.allow_urls,
            "trusted_hosts": tuple(self.trust_host or ()),
        }
