"""A program that provisions a platform and nothing after it, for tests of the platform alone."""

import pulumi

from tests.providers.platform_program.program import run

run(pulumi.Config("samegate").require_object("platform"))
