"""AWS IoT: the registry over boto3, the connection over MQTT. The only door to both libraries."""

from station.aws.authorities import CaRecord, CaRegistry
from station.aws.cloud import AwsCloud
from station.aws.registry import Registry

__all__ = ["AwsCloud", "CaRecord", "CaRegistry", "Registry"]
