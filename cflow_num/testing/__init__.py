"""`check(spec)`: a battery of properties that every optimizer's flow must have, new or built in.

Hypothesis searches for hyperparameters and states at which one fails and shrinks what it finds. In a test of your own:

    from cflow_num.testing import assert_optimizer

    def test_my_optimizer():
        assert_optimizer(SPEC, quick=True)
"""

from .battery import Battery, Row, assert_optimizer, check

__all__ = ["Battery", "Row", "assert_optimizer", "check"]
