"""`python -m moorage` is the command line."""

from moorage.cli import app

if __name__ == "__main__":
    app()
