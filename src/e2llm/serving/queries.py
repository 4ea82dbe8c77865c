"""What stands behind the `?` of an address: what a route does not know is refused, as in bodies."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.routing import APIRoute

from e2llm.serving.api_errors import ApiError
from e2llm.serving.server_state import owner_of

_SHOWN_CHARS = 80


def check_query(request: Request, owner: Annotated[str, Depends(owner_of)]) -> None:
    """Refuse a query with parameters that the route does not have, or that has one twice.

    It is a dependency of routes, and comes after the key was checked.

    Args:
        request: The request; its route says which parameters there are.
        owner: Who calls.

    Raises:
        ApiError: 400, naming the first such parameter and those that there are.
    """
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    known = [field.alias for field in route.dependant.query_params]
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        shown = name if len(name) <= _SHOWN_CHARS else name[:_SHOWN_CHARS] + "..."
        if name not in known:
            takes = f"takes {', '.join(known)}" if known else "takes none"
            message = f"the query has {shown!r}, which is not known; this address {takes}: leave it out"
            raise ApiError(400, message, code="invalid_value", param=shown)
        if given.count(name) > 1:
            message = f"the query has {shown!r} {given.count(name)} times; give it once"
            raise ApiError(400, message, code="invalid_value", param=shown)
