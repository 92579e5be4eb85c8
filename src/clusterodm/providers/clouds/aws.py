# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Amazon EC2: instances, on demand and on the spot market, through botocore in threads.

Needs `pip install clusterodm[aws]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from clusterodm.core.errors import ConfigError, OutOfCapacity, ProviderError, Rejected, Throttled, Unreachable
from clusterodm.plugins import PluginContext
from clusterodm.providers.base import TAG, CloudProvider, MachineSpec, MachineStatus, ProviderMachine
from clusterodm.providers.config import CloudConfig, Size, as_list, read_entry
from clusterodm.providers.throttling import retry_at

T = TypeVar("T")

_STATUS: Final = {
    "pending": MachineStatus.STARTING,
    "running": MachineStatus.RUNNING,
    "shutting-down": MachineStatus.ENDING,
    "stopping": MachineStatus.STOPPED,
    "stopped": MachineStatus.STOPPED,
}
_NO_CAPACITY: Final = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientReservedInstanceCapacity",
        "InsufficientFreeAddressesInSubnet",
        "InstanceLimitExceeded",
        "VcpuLimitExceeded",
        "MaxSpotInstanceCountExceeded",
        "SpotMaxPriceTooLow",
        "VolumeLimitExceeded",
        "Unsupported",
    }
)
#: Codes of throttled requests: EC2's own, and those of services behind it.
_THROTTLED: Final = frozenset(
    {
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "EC2ThrottledException",
        "BandwidthLimitExceeded",
        "SlowDown",
        "TooManyRequestsException",
    }
)
_BUSY: Final = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "ServiceUnavailable",
        "Unavailable",
        "RequestTimeout",
        "IdempotentInstanceTerminated",
    }
)
#: Default size of the disk in GB.
_STORAGE: Final = 60


class AwsConfig(CloudConfig, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Keys of this provider."""

    access_key: str
    secret_key: str
    region: str | list[str]
    #: Letters of availability zones.
    zone: str | list[str] = ""
    ami: str
    #: By name.
    security_group: str
    vpc: str = ""
    subnet: str = ""
    use_private_address: bool = False
    assign_private_address_only: bool = False
    monitoring: bool = False
    spot: bool = False
    #: "key,value"
    tags: tuple[str, ...] = ()
    iamrole: str = ""


class Aws(CloudProvider):
    """Machines are instances."""

    config: AwsConfig

    def __init__(self, entry: dict[str, Any], context: PluginContext) -> None:
        config = read_entry(AwsConfig, entry)
        super().__init__(config)
        for tag in config.tags:
            if not tag.partition(",")[2]:
                raise ConfigError('provider aws: tags are written "key,value"')
        try:
            import botocore.session
            from botocore.config import Config
        except ImportError:
            raise ConfigError("provider aws needs botocore: pip install clusterodm[aws]") from None
        self._session = botocore.session.Session()
        self._settings = Config(connect_timeout=10, read_timeout=30, retries={"total_max_attempts": 1})
        self._clients: dict[str, Any] = {}
        self._clock = context.clock

    def locations(self) -> Iterable[str]:
        """Return availability zones, or regions if no zone is configured."""
        letters = as_list(self.config.zone) or [""]
        return [f"{region}{letter}" for region in as_list(self.config.region) for letter in letters]

    def markets(self, size: Size) -> Iterable[bool]:
        """Return spot first, then on demand, if spot is configured."""
        return (True, False) if self.config.spot else (False,)

    def price(self, size: Size, *, spot: bool) -> float:
        """Return the maximum price on the spot market."""
        return size.spot_price if spot and size.spot_price else size.price

    async def check(self) -> None:
        """Look up image and security group."""
        for region in as_list(self.config.region):
            await self._root_device(region)
            await self._groups(region)

    async def create(self, spec: MachineSpec) -> ProviderMachine:
        """Run an instance. Its name is the client token, so that a repeated call returns the same instance."""
        region = self._region(spec.offering.location)
        request = self._request(spec, await self._root_device(region))
        network = request["NetworkInterfaces"][0]
        network["Groups"] = await self._groups(region)
        if subnet := await self._subnet(region, spec.offering.location):
            network["SubnetId"] = subnet
        for machine in await self._list(region, spec.cluster):
            if machine.name == spec.name:
                return machine
        response = await self._call(region, lambda client: client.run_instances(**request))
        return _machine(response["Instances"][0], spec.offering.location, self._private)

    async def get(self, machine_id: str, location: str) -> ProviderMachine | None:
        """Return an instance; None if it is terminated, although EC2 lists it for another hour."""
        try:
            region = self._region(location)
            response = await self._call(region, lambda client: client.describe_instances(InstanceIds=[machine_id]))
        except _NotFound:
            return None
        instances = [instance for group in response["Reservations"] for instance in group["Instances"]]
        alive = [instance for instance in instances if instance["State"]["Name"] in _STATUS]
        return _machine(alive[0], location, self._private) if alive else None

    async def list_machines(self, cluster: str) -> list[ProviderMachine]:
        """Return instances with the tag in all regions."""
        return [machine for region in as_list(self.config.region) for machine in await self._list(region, cluster)]

    async def delete(self, machine: ProviderMachine) -> None:
        """Terminate an instance; its disk is deleted with it (DeleteOnTermination)."""
        region = self._region(machine.location)
        try:
            await self._call(region, lambda client: client.terminate_instances(InstanceIds=[machine.id]))
        except _NotFound:
            return

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()

    @property
    def _private(self) -> bool:
        return self.config.use_private_address or self.config.assign_private_address_only

    def _request(self, spec: MachineSpec, root_device: str) -> dict[str, Any]:
        config, size = self.config, self.config.size(spec.offering.size)
        own = dict(tag.split(",", 1) for tag in config.tags)
        tags = [{"Key": key, "Value": value} for key, value in ({"Name": spec.name, TAG: spec.cluster} | own).items()]
        kinds = ["instance", "volume", *(["spot-instances-request"] if spec.offering.spot else [])]
        network: dict[str, Any] = {
            "DeviceIndex": 0,
            "AssociatePublicIpAddress": not config.assign_private_address_only,
            "DeleteOnTermination": True,
        }
        request: dict[str, Any] = {
            "ImageId": config.ami,
            "InstanceType": spec.offering.size,
            "MinCount": 1,
            "MaxCount": 1,
            "UserData": spec.bootstrap,
            "ClientToken": spec.name,
            "NetworkInterfaces": [network],
            "BlockDeviceMappings": [
                {
                    "DeviceName": root_device,
                    "Ebs": {
                        "VolumeSize": size.storage or _STORAGE,
                        "VolumeType": "gp3",
                        "DeleteOnTermination": True,
                    },
                }
            ],
            "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in kinds],
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            "Monitoring": {"Enabled": config.monitoring},
        }
        if spec.offering.location not in as_list(config.region) and not config.subnet:
            request["Placement"] = {"AvailabilityZone": spec.offering.location}
        if config.iamrole:
            request["IamInstanceProfile"] = {"Name": config.iamrole}
        if spec.offering.spot:
            options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
            if size.spot_price:
                options["MaxPrice"] = f"{size.spot_price:g}"
            request["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
        return request

    async def _list(self, region: str, cluster: str) -> list[ProviderMachine]:
        filters = [
            {"Name": f"tag:{TAG}", "Values": [cluster]},
            {"Name": "instance-state-name", "Values": list(_STATUS)},
        ]

        def pages(client: Any) -> list[Any]:
            return list(client.get_paginator("describe_instances").paginate(Filters=filters))

        instances = [
            instance
            for page in await self._call(region, pages)
            for group in page["Reservations"]
            for instance in group["Instances"]
        ]
        ending = (
            await self._marked(region, cluster) if any("SpotInstanceRequestId" in each for each in instances) else ()
        )
        return [
            _machine(each, each["Placement"]["AvailabilityZone"], self._private, ending=each["InstanceId"] in ending)
            for each in instances
        ]

    async def _marked(self, region: str, cluster: str) -> set[str]:
        """Return the ids of spot instances with an interruption notice, which comes two minutes before the end."""
        filters = [
            {"Name": f"tag:{TAG}", "Values": [cluster]},
            {"Name": "status-code", "Values": ["marked-for-termination", "marked-for-stop"]},
        ]
        try:
            response = await self._call(region, lambda client: client.describe_spot_instance_requests(Filters=filters))
        except Rejected:
            return set()  # without that permission the end comes unannounced
        return {request["InstanceId"] for request in response["SpotInstanceRequests"] if "InstanceId" in request}

    async def _root_device(self, region: str) -> str:
        response = await self._call(region, lambda client: client.describe_images(ImageIds=[self.config.ami]))
        if not response["Images"]:
            raise Rejected(f"there is no image {self.config.ami} in {region}")
        return str(response["Images"][0]["RootDeviceName"])

    async def _groups(self, region: str) -> list[str]:
        """Return the id of the security group, which is configured by name."""
        filters = [{"Name": "group-name", "Values": [self.config.security_group]}]
        filters += [{"Name": "vpc-id", "Values": [self.config.vpc]}] if self.config.vpc else []
        response = await self._call(region, lambda client: client.describe_security_groups(Filters=filters))
        if not response["SecurityGroups"]:
            raise Rejected(f"there is no security group {self.config.security_group} in {region}")
        return [str(response["SecurityGroups"][0]["GroupId"])]

    async def _subnet(self, region: str, location: str) -> str:
        """Return the configured subnet, or the emptiest one of the configured VPC in that zone; empty: the default."""
        if self.config.subnet or not self.config.vpc:
            return self.config.subnet
        filters = [{"Name": "vpc-id", "Values": [self.config.vpc]}]
        if location != region:
            filters.append({"Name": "availability-zone", "Values": [location]})
        response = await self._call(region, lambda client: client.describe_subnets(Filters=filters))
        if not response["Subnets"]:
            raise Rejected(f"there is no subnet of {self.config.vpc} in {location}")
        return str(max(response["Subnets"], key=lambda each: int(each["AvailableIpAddressCount"]))["SubnetId"])

    def _region(self, location: str) -> str:
        """Return the region of a zone."""
        regions = as_list(self.config.region)
        matching = [region for region in regions if location.startswith(region)]
        return max(matching, key=len, default=regions[0])

    async def _call(self, region: str, work: Callable[[Any], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        def call() -> T:
            return work(self._client(region))

        try:
            return await asyncio.to_thread(call)
        except ClientError as error:
            raise _translated(error.response, self._clock()) from None
        except (BotoCoreError, ResponseParserError) as error:
            raise Unreachable(f"no response ({type(error).__name__})") from None

    def _client(self, region: str) -> Any:
        if region not in self._clients:
            self._clients[region] = self._session.create_client(
                "ec2",
                region_name=region,
                endpoint_url=self.config.api_url or None,
                aws_access_key_id=self.config.access_key,
                aws_secret_access_key=self.config.secret_key,
                config=self._settings,
            )
        return self._clients[region]


class _NotFound(Rejected):
    """The id or name does not exist."""


def _translated(response: Mapping[str, Any], now: float) -> ProviderError:
    error, metadata = response.get("Error", {}), response.get("ResponseMetadata", {})
    code, text = str(error.get("Code", "")), str(error.get("Message", ""))[:200]
    if code in _THROTTLED or metadata.get("HTTPStatusCode") == 429:
        return Throttled(f"{code}: {text}", until=retry_at(metadata.get("HTTPHeaders", {}), now))
    if code.endswith((".NotFound", ".Malformed")):
        return _NotFound(f"{code}: {text}")
    if code in _NO_CAPACITY:
        return OutOfCapacity(f"{code}: {text}")
    if code in _BUSY:
        return Unreachable(f"{code}: {text}")
    return Rejected(f"{code}: {text}")


def _machine(instance: dict[str, Any], location: str, private: bool, *, ending: bool = False) -> ProviderMachine:
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
    return ProviderMachine(
        id=instance["InstanceId"],
        name=tags.get("Name", ""),
        status=MachineStatus.ENDING if ending else _STATUS.get(instance["State"]["Name"], MachineStatus.ENDING),
        location=location,
        address=instance.get("PrivateIpAddress" if private else "PublicIpAddress") or "",
    )
