"""`python -m components.aws.credential CLUSTER REGION`: a token for EKS, as an exec credential on standard output.

It is what the kubeconfig runs. The token is a presigned STS request, made by botocore without asking anybody: EKS sends it to STS, which says
who signed. Format: aws-iam-authenticator, README, "API Authorization from Outside a Cluster".
"""

from __future__ import annotations

import base64
import json
import sys
from datetime import UTC, datetime, timedelta

import botocore.session
from botocore.exceptions import BotoCoreError
from botocore.signers import RequestSigner

from lbnode.errors import ConfigError

PREFIX = "k8s-aws-v1."
_WHERE = "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where an instance role is there"
URL_SECONDS = 60
"""What EKS asks the request to be presigned for (aws-iam-authenticator)."""
TOKEN_MINUTES = 14
"""A token counts for 15 minutes after it was signed (the same); one less, for clocks."""


def require() -> None:
    """Nothing, if botocore finds credentials; whether AWS takes them is told by AWS.

    Raises:
        ConfigError: it finds none.
    """
    try:
        found = botocore.session.get_session().get_credentials()
    except BotoCoreError as error:
        raise ConfigError("AWS credentials", str(error), "Mend the profile that AWS_PROFILE names") from None
    if found is None:
        raise ConfigError("AWS credentials", "there are none", _WHERE)


def exec_credential(cluster: str, region: str, now: datetime) -> str:
    """The ExecCredential with a token for the cluster, by the credentials that botocore finds.

    Raises:
        ConfigError: it finds none, or the region is none.
    """
    session = botocore.session.get_session()
    try:
        credentials = session.get_credentials()
        if credentials is None:
            raise ConfigError(
                "AWS credentials",
                "there are none",
                _WHERE,
            )
        client = session.create_client("sts", region_name=region)
        signer = RequestSigner(
            client.meta.service_model.service_id,
            region,
            "sts",
            "v4",
            credentials,
            session.get_component("event_emitter"),
        )
        url = signer.generate_presigned_url(
            {
                "method": "GET",
                "url": f"{client.meta.endpoint_url}/?Action=GetCallerIdentity&Version=2011-06-15",
                "body": {},
                "headers": {"x-k8s-aws-id": cluster},
                "context": {},
            },
            region_name=region,
            expires_in=URL_SECONDS,
            operation_name="",
        )
    except BotoCoreError as error:
        raise ConfigError(
            f"AWS credentials for region {region!r}", str(error), "Mend the profile or the region"
        ) from None
    token = PREFIX + base64.urlsafe_b64encode(url.encode()).decode().rstrip("=")
    expires = (now + timedelta(minutes=TOKEN_MINUTES)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps(
        {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "spec": {},
            "status": {"expirationTimestamp": expires, "token": token},
        }
    )


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(exec_credential(arguments[0], arguments[1], datetime.now(UTC)))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
