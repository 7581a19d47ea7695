"""`python -m components.gcp.credential`: an access token for GKE, as an exec credential on standard output.

It is what the kubeconfig runs. google-auth finds the credential: a service account's file, a user's, or the machine's own.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

import google.auth
import google.auth.transport.requests
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError

from lbnode.errors import ConfigError

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_WHERE = "Set GOOGLE_APPLICATION_CREDENTIALS to a service account's file, or run where a service account is attached"


def exec_credential(token: str, expires: datetime) -> str:
    """The ExecCredential around a token; ``expires`` in UTC."""
    return json.dumps(
        {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "spec": {},
            "status": {"expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ"), "token": token},
        }
    )


def require() -> None:
    """Nothing, if google-auth finds credentials; whether Google takes them is told by Google.

    Raises:
        ConfigError: it finds none.
    """
    try:
        google.auth.default(scopes=[SCOPE])
    except DefaultCredentialsError:
        raise ConfigError("Google credentials", "there are none", _WHERE) from None


def fetch(request: Any = None) -> str:
    """Ask for a token by the credential that google-auth finds, and wrap it.

    Raises:
        ConfigError: there is no credential, or Google refuses it.
    """
    try:
        found: Any = google.auth.default(scopes=[SCOPE])
        credentials = found[0]
        credentials.refresh(request or google.auth.transport.requests.Request())
    except DefaultCredentialsError:
        raise ConfigError(
            "Google credentials",
            "there are none",
            _WHERE,
        ) from None
    except GoogleAuthError as error:
        raise ConfigError("Google credentials", str(error), "Renew them") from None
    return exec_credential(credentials.token, (credentials.expiry or datetime.now(UTC)).replace(tzinfo=UTC))


if __name__ == "__main__":
    try:
        print(fetch())
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
