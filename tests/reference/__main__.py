"""`make docs`: writes the generated parts into docs/operations.md."""

from reference.sections import PAGE, filled

PAGE.write_text(filled(PAGE.read_text()))
