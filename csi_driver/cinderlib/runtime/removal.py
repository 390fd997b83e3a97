"""What a driver's deletion proves about an attempt whose outcome nobody knows.

Asked by :class:`csi_driver.cinderlib.manager.VolumeManager`.  When the answer of a
create call was lost, all that is known of the attempt is its Cinder id.  Most drivers
make the name on the array from that id: they delete such an attempt, and their "not
there" is a proof.  Others find a volume only by what its creation returned
(provider_id, provider_location, metadata), which was never stored, or take a lookup
that failed for a lookup that found nothing: they answer OK while the volume is there.

:data:`FAMILIES` says which is which for every driver of the installed Cinder, as read in
its ``delete_volume`` and ``delete_snapshot``; a test fails for a driver without a row.
It is about the volume or snapshot itself, and about volumes without replication: what a
driver makes on the way (a temporary snapshot of the source) is its own to clean up.

A driver from elsewhere proves nothing, unless its class says otherwise with the attribute
``removal_proves_absence = True``: then OK and "not found" both mean that nothing of this
Cinder id is left.  A wrong guess this way costs a report; the other way, a lost volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

Kind = Literal["volume", "snapshot"]


class Proof(StrEnum):
    """Which outcome of a deletion by Cinder id alone proves that nothing is left."""

    ANSWER = "answer"
    """OK does, and so does "not found"."""

    SUCCESS = "success"
    """OK does; what is absent is refused with an error like any other."""

    NOTHING = "nothing"
    """No outcome does: OK is also answered for what is there."""


@dataclass(frozen=True)
class Removal:
    """What is known of one kind of object of one driver; ``why`` is for people."""

    proof: Proof
    why: str


@dataclass(frozen=True)
class Family:
    """Drivers that share their deletion.

    ``drivers`` are class names below ``cinder.volume.drivers``.
    """

    volumes: Proof
    snapshots: Proof
    why: str
    drivers: tuple[str, ...]


ANSWER, SUCCESS, NOTHING = Proof

FAMILIES: tuple[Family, ...] = (
    # -- found by a name made from the id -------------------------------------
    Family(
        ANSWER,
        ANSWER,
        "objects are looked up by a name made from their id; a failed lookup is an error",
        (
            "datera.datera_iscsi.DateraDriver",
            "dell_emc.unity.driver.UnityDriver",
            "dell_emc.xtremio.XtremIOFCDriver",
            "dell_emc.xtremio.XtremIOISCSIDriver",
            "fusionstorage.dsware.DSWAREDriver",
            "huawei.huawei_driver.HuaweiFCDriver",
            "huawei.huawei_driver.HuaweiISCSIDriver",
            "ibm.storwize_svc.storwize_svc_fc.StorwizeSVCFCDriver",
            "ibm.storwize_svc.storwize_svc_iscsi.StorwizeSVCISCSIDriver",
            "infinidat.InfiniboxVolumeDriver",
            "inspur.instorage.instorage_fc.InStorageMCSFCDriver",
            "inspur.instorage.instorage_iscsi.InStorageMCSISCSIDriver",
            "kaminario.kaminario_iscsi.KaminarioISCSIDriver",
            "lvm.LVMVolumeDriver",
            "nec.volume.MStorageFCDriver",
            "nec.volume.MStorageISCSIDriver",
            "spdk.SPDKDriver",
            "vastdata.driver.VASTVolumeDriver",
            "yadro.tatlin_fc.TatlinFCVolumeDriver",
            "yadro.tatlin_iscsi.TatlinISCSIVolumeDriver",
            "zadara.zadara.ZadaraVPSAISCSIDriver",
        ),
    ),
    Family(
        ANSWER,
        ANSWER,
        "objects are deleted by a name made from their id; only the array's own"
        ' "does not exist" passes for success',
        (
            "ceph.rbd_iscsi.RBDISCSIDriver",
            "hpe.alletramp_driver.HPEAlletraMPFCDriver",
            "hpe.alletramp_driver.HPEAlletraMPISCSIDriver",
            "hpe.alletramp_driver.HPEAlletraMPNVMETCPDriver",
            "hpe.hpe_3par_fc.HPE3PARFCDriver",
            "hpe.hpe_3par_iscsi.HPE3PARISCSIDriver",
            "kioxia.kumoscale.KumoScaleBaseVolumeDriver",
            "nexenta.iscsi.NexentaISCSIDriver",
            "nexenta.ns5.iscsi.NexentaISCSIDriver",
            "prophetstor.dpl_fc.DPLFCDriver",
            "prophetstor.dpl_iscsi.DPLISCSIDriver",
            "rbd.RBDDriver",
            "sandstone.sds_driver.SdsISCSIDriver",
            "storpool.StorPoolDriver",
        ),
    ),
    # -- what is absent is an error -------------------------------------------
    Family(
        SUCCESS,
        SUCCESS,
        "objects are named by their id, and an absent one is an error like any other",
        (
            "hpe.nimble.NimbleFCDriver",
            "hpe.nimble.NimbleISCSIDriver",
            "veritas_access.veritas_iscsi.ACCESSIscsiDriver",
        ),
    ),
    Family(
        SUCCESS,
        ANSWER,
        "the driver asks for the file system of an absent volume before it deletes it, and fails",
        ("nexenta.ns5.nfs.NexentaNfsDriver",),
    ),
    Family(
        SUCCESS,
        ANSWER,
        "the command for an absent volume fails like any other; for a snapshot the code is known",
        (
            "toyou.acs5000.acs5000_fc.Acs5000FCDriver",
            "toyou.acs5000.acs5000_iscsi.Acs5000ISCSIDriver",
        ),
    ),
    Family(
        ANSWER,
        SUCCESS,
        "volumes are found by name; the array refuses an absent snapshot like any other error",
        (
            "hedvig.hedvig_cinder.HedvigISCSIDriver",
            "inspur.as13000.as13000_driver.AS13000Driver",
            "open_e.iscsi.JovianISCSIDriver",
        ),
    ),
    # -- found by what the creation returned ----------------------------------
    Family(
        NOTHING,
        NOTHING,
        "objects are found only by the provider_id that their creation returned",
        (
            "dell_emc.powerflex.driver.PowerFlexBaseDriver",
            "dell_emc.powerflex.driver.PowerFlexDriver",
            "dell_emc.powerflex.driver.PowerFlexNVMeDriver",
            "fungible.driver.FungibleDriver",
        ),
    ),
    Family(
        NOTHING,
        NOTHING,
        "objects are found only by the provider_location that their creation returned",
        (
            "datacore.driver.DataCoreVolumeDriver",
            "datacore.fc.FibreChannelVolumeDriver",
            "datacore.iscsi.ISCSIVolumeDriver",
            "dell_emc.powermax.fc.PowerMaxFCDriver",
            "dell_emc.powermax.iscsi.PowerMaxISCSIDriver",
            # By name on the DX S2 series alone.
            "fujitsu.eternus_dx.eternus_dx_fc.FJDXFCDriver",
            "fujitsu.eternus_dx.eternus_dx_iscsi.FJDXISCSIDriver",
            "hitachi.hbsd_fc.HBSDFCDriver",
            "hitachi.hbsd_iscsi.HBSDISCSIDriver",
            "hpe.xp.hpe_xp_fc.HPEXPFCDriver",
            "hpe.xp.hpe_xp_iscsi.HPEXPISCSIDriver",
            "infortrend.infortrend_fc_cli.InfortrendCLIFCDriver",
            "infortrend.infortrend_iscsi_cli.InfortrendCLIISCSIDriver",
            "nec.v.nec_v_fc.VStorageFCDriver",
            "nec.v.nec_v_iscsi.VStorageISCSIDriver",
            "rsd.RSDDriver",
            "veritas_cnfs.VeritasCNFSDriver",
            "vmware.fcd.VMwareVStorageObjectDriver",
        ),
    ),
    Family(
        NOTHING,
        NOTHING,
        "volumes are found only by the provider_location that their creation returned (the"
        " share); a snapshot's file is made before the note that it is found by",
        (
            "dell_emc.powerstore.nfs.PowerStoreNFSDriver",
            "nfs.NfsDriver",
            "quobyte.QuobyteDriver",
            "vzstorage.VZStorageDriver",
        ),
    ),
    Family(
        NOTHING,
        NOTHING,
        "objects are found only by the metadata that their creation returned",
        ("qnap.QnapISCSIDriver",),
    ),
    Family(
        NOTHING,
        NOTHING,
        "volumes are found only by the provider_id that their creation returned; an error"
        " about a snapshot passes for its absence",
        (
            "dell_emc.powerstore.driver.PowerStoreDriver",
            "pure.PureFCDriver",
            "pure.PureISCSIDriver",
            "pure.PureNVMEDriver",
        ),
    ),
    Family(
        NOTHING,
        NOTHING,
        "volumes are found only by the provider_location that their creation returned; errors"
        " in the deletion of a snapshot are passed over",
        ("nexenta.nfs.NexentaNfsDriver", "vmstore.nfs.VmstoreNfsDriver"),
    ),
    Family(
        NOTHING,
        NOTHING,
        "DS8000 volumes are found only by the provider_location that their creation returned;"
        " XIV errors are logged and passed over",
        ("ibm.ibm_storage.ibm_storage.IBMStorageDriver",),
    ),
    Family(
        ANSWER,
        NOTHING,
        "volumes are found by name; snapshots only by the metadata that their creation returned",
        ("synology.synology_iscsi.SynoISCSIDriver",),
    ),
    Family(
        ANSWER,
        NOTHING,
        "volumes are found by their UUID; a snapshot that is a template only by the"
        " provider_location that its creation returned",
        ("vmware.vmdk.VMwareVcVmdkDriver",),
    ),
    # -- looked up by name, but silence is not absence -------------------------
    Family(
        NOTHING,
        NOTHING,
        "any error of the lookup passes for absence",
        (
            "dell_emc.sc.storagecenter_fc.SCFCDriver",
            "dell_emc.sc.storagecenter_iscsi.SCISCSIDriver",
            "lightos.LightOSVolumeDriver",
            "netapp.dataontap.fc_cmode.NetAppCmodeFibreChannelDriver",
            "netapp.dataontap.iscsi_cmode.NetAppCmodeISCSIDriver",
            "netapp.dataontap.nvme_cmode.NetAppCmodeNVMeDriver",
        ),
    ),
    Family(
        NOTHING,
        NOTHING,
        "errors of the deletion are logged and passed over",
        (
            # rm -f without a look at its exit code.
            "ibm.gpfs.GPFSDriver",
            "ibm.gpfs.GPFSNFSDriver",
            "ibm.gpfs.GPFSRemoteDriver",
            "netapp.dataontap.nfs_cmode.NetAppCmodeNfsDriver",
        ),
    ),
    Family(
        NOTHING,
        NOTHING,
        "without a resource on any node the definition stays; replies are not looked at",
        ("linstordrv.LinstorDrbdDriver", "linstordrv.LinstorIscsiDriver"),
    ),
    Family(
        NOTHING,
        NOTHING,
        "a request that fails twice to reach the array ends without an error",
        (
            "dell_emc.powervault.fc.PVMEFCDriver",
            "dell_emc.powervault.iscsi.PVMEISCSIDriver",
            "lenovo.lenovo_fc.LenovoFCDriver",
            "lenovo.lenovo_iscsi.LenovoISCSIDriver",
            "san.hp.hpmsa_fc.HPMSAFCDriver",
            "san.hp.hpmsa_iscsi.HPMSAISCSIDriver",
        ),
    ),
    Family(
        NOTHING,
        NOTHING,
        "an array that cannot be reached passes for one without the volume; snapshots are"
        " found only by the provider_location that their creation returned",
        ("macrosan.driver.MacroSANFCDriver", "macrosan.driver.MacroSANISCSIDriver"),
    ),
    Family(
        NOTHING,
        ANSWER,
        "a clone gets the attribute that it is found by with a second request",
        ("solidfire.SolidFireDriver",),
    ),
    Family(
        NOTHING,
        ANSWER,
        "a LUN with snapshots is queued for deletion later, and the answer is OK",
        ("dell_emc.vnx.driver.VNXDriver",),
    ),
    Family(
        ANSWER,
        NOTHING,
        "volumes are found by name; snapshots are looked for on the first page of a list",
        ("toyou.tyds.tyds.TYDSDriver",),
    ),
)

_CINDER = "cinder.volume.drivers."

_OURS = Family(
    ANSWER,
    ANSWER,
    "files are named by the id; a directory that cannot be read is an error",
    ("csi_driver.drivers.file.FileVolumeDriver",),
)

_BY_DRIVER: dict[str, Family] = {
    **{_CINDER + name: family for family in FAMILIES for name in family.drivers},
    **dict.fromkeys(_OURS.drivers, _OURS),
}

_SAYS_SO = Removal(ANSWER, "the driver says so itself, by removal_proves_absence")
_UNKNOWN = Removal(
    NOTHING, "the driver is not among Cinder's own and does not say removal_proves_absence"
)


def removal(driver: Any, kind: Kind) -> Removal:
    """What ``driver``'s deletion of an attempt proves of which only the Cinder id is known.

    The class itself counts, not its bases: a derived driver may delete otherwise.

    :param driver: the driver object, or its class.
    """
    cls = driver if isinstance(driver, type) else type(driver)
    family = _BY_DRIVER.get(f"{cls.__module__}.{cls.__qualname__}")
    if family is None:
        return _SAYS_SO if getattr(driver, "removal_proves_absence", False) else _UNKNOWN
    return Removal(family.volumes if kind == "volume" else family.snapshots, family.why)
