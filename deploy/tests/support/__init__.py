"""What the tests of the files of deploy/ have in common."""

from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[2]
ROOT = DEPLOY.parent
