"""A program that provisions a platform and nothing after it, for tests of the platform alone."""

import pulumi

from tests.providers.platform_program.program import run
from tests.providers.stacks import POOL

config = pulumi.Config("samegate")
run(config.require_object("platform"), config.get("pool") or POOL)
