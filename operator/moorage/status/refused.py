"""Pods that the API server does not let be made: a quota, or a policy that does not like them."""

import re

from moorage.status.finding import Finding

# Their random names are left out: they change with every try, and so would our message.
_NAME = re.compile(r'^(?:Error creating: )?(?:admission webhook .*? denied the request: )?pods "[^"]+" is forbidden: ')


def refusal(words: str) -> Finding:
    message = _NAME.sub("", words)
    if "exceeded quota" in message:
        return Finding("Capacity", "QuotaExceeded", message)
    return Finding("Environment", "PodsRefused", message)
