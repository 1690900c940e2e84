"""Verify: whether a mixture is what its builds wrote, which file is not, and what to do about it.

Files by themselves (`files`, `shard`), the chains of the versions with their counts (`chain`), statistics against each
other (`figures`); on demand every sample decoded (`samples`) and raw files hashed again (`raw`).
"""

from dataengine.verification.report import Problem, VerifyReport
from dataengine.verification.run import Asked, verify

__all__ = ["Asked", "Problem", "VerifyReport", "verify"]
