"""The volume drivers by short name, with transport and required packages.

Asked by :mod:`csi_driver.cinderlib.runtime.drivers` for a backend's ``volume_driver``,
by :mod:`csi_driver.cinderlib.driver_list` and by the page ``docs/drivers.md``.  A table
and not an enumeration: a short name in somebody's configuration must mean the same driver
after an upgrade of Cinder, and a transport is nowhere written down by the drivers.  A test
compares the table with the installed Cinder.  Nothing here imports a driver.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from csi_driver.cinderlib.exceptions import UnknownDriver

CINDER = "cinder.volume.drivers."

FILE_DRIVER = "csi_driver.drivers.file.FileVolumeDriver"


@dataclass(frozen=True)
class Entry:
    """One driver.

    :param path: full name of the class.
    :param transports: how its volumes reach a host.
    :param packages: Python modules, see :mod:`~csi_driver.cinderlib.runtime.packages`.
    """

    short_name: str
    path: str
    transports: tuple[str, ...]
    packages: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """What a user has to know beside; '' for most."""
        return _NOTES.get(self.short_name, "")

    @property
    def class_name(self) -> str:
        """The last part of ``path``."""
        return self.path.rpartition(".")[2]


_NOTES = {
    "datacore": "a base class: use datacore_fc or datacore_iscsi",
    "ibm_storage": "needs pyOpenSSL for DS8000, pyxcli for XIV",
    "lvm": "NVMe-oF by `target_helper` nvmet",
    "netapp_iscsi": (
        "like the other three, also by `cinder.volume.drivers.netapp.common.NetAppDriver`, which"
        " chooses one by `netapp_storage_protocol`"
    ),
    "powerflex_base": "a base class: use powerflex or powerflex_nvme",
    "vmware_fcd": "for VMware's hypervisors only: a Kubernetes node cannot attach its volumes",
    "vmware_vmdk": "for VMware's hypervisors only: a Kubernetes node cannot attach its volumes",
}

_ISCSI, _FC, _NVME, _NFS, _FILE = "iSCSI", "FC", "NVMe-oF", "NFS", "file"

# short name, class below cinder.volume.drivers, transports, packages
_ROWS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("acs5000_fc", "toyou.acs5000.acs5000_fc.Acs5000FCDriver", (_FC,), ()),
    ("acs5000_iscsi", "toyou.acs5000.acs5000_iscsi.Acs5000ISCSIDriver", (_ISCSI,), ()),
    (
        "alletramp_fc",
        "hpe.alletramp_driver.HPEAlletraMPFCDriver",
        (_FC,),
        ("hpe_storage_flowkit_py",),
    ),
    (
        "alletramp_iscsi",
        "hpe.alletramp_driver.HPEAlletraMPISCSIDriver",
        (_ISCSI,),
        ("hpe_storage_flowkit_py",),
    ),
    (
        "alletramp_nvme",
        "hpe.alletramp_driver.HPEAlletraMPNVMETCPDriver",
        (_NVME,),
        ("hpe_storage_flowkit_py",),
    ),
    ("as13000", "inspur.as13000.as13000_driver.AS13000Driver", (_ISCSI,), ()),
    ("datacore", "datacore.driver.DataCoreVolumeDriver", (_ISCSI, _FC), ("websocket",)),
    ("datacore_fc", "datacore.fc.FibreChannelVolumeDriver", (_FC,), ("websocket",)),
    ("datacore_iscsi", "datacore.iscsi.ISCSIVolumeDriver", (_ISCSI,), ("websocket",)),
    ("datera", "datera.datera_iscsi.DateraDriver", (_ISCSI,), ("dfs_sdk",)),
    ("dsware", "fusionstorage.dsware.DSWAREDriver", ("SCSI",), ()),
    ("eternus_fc", "fujitsu.eternus_dx.eternus_dx_fc.FJDXFCDriver", (_FC,), ("pywbem",)),
    (
        "eternus_iscsi",
        "fujitsu.eternus_dx.eternus_dx_iscsi.FJDXISCSIDriver",
        (_ISCSI,),
        ("pywbem",),
    ),
    ("fungible", "fungible.driver.FungibleDriver", (_NVME,), ()),
    ("gpfs", "ibm.gpfs.GPFSDriver", (_FILE,), ()),
    ("gpfs_nfs", "ibm.gpfs.GPFSNFSDriver", (_NFS,), ()),
    ("gpfs_remote", "ibm.gpfs.GPFSRemoteDriver", (_FILE,), ()),
    ("hedvig", "hedvig.hedvig_cinder.HedvigISCSIDriver", (_ISCSI,), ()),
    ("hitachi_fc", "hitachi.hbsd_fc.HBSDFCDriver", (_FC,), ()),
    ("hitachi_iscsi", "hitachi.hbsd_iscsi.HBSDISCSIDriver", (_ISCSI,), ()),
    ("hpe3par_fc", "hpe.hpe_3par_fc.HPE3PARFCDriver", (_FC,), ("hpe3parclient",)),
    ("hpe3par_iscsi", "hpe.hpe_3par_iscsi.HPE3PARISCSIDriver", (_ISCSI,), ("hpe3parclient",)),
    ("hpexp_fc", "hpe.xp.hpe_xp_fc.HPEXPFCDriver", (_FC,), ()),
    ("hpexp_iscsi", "hpe.xp.hpe_xp_iscsi.HPEXPISCSIDriver", (_ISCSI,), ()),
    ("hpmsa_fc", "san.hp.hpmsa_fc.HPMSAFCDriver", (_FC,), ()),
    ("hpmsa_iscsi", "san.hp.hpmsa_iscsi.HPMSAISCSIDriver", (_ISCSI,), ()),
    ("huawei_fc", "huawei.huawei_driver.HuaweiFCDriver", (_FC,), ()),
    ("huawei_iscsi", "huawei.huawei_driver.HuaweiISCSIDriver", (_ISCSI,), ()),
    ("ibm_storage", "ibm.ibm_storage.ibm_storage.IBMStorageDriver", (_ISCSI, _FC), ()),
    ("infinidat", "infinidat.InfiniboxVolumeDriver", (_ISCSI, _FC), ("infinisdk",)),
    ("infortrend_fc", "infortrend.infortrend_fc_cli.InfortrendCLIFCDriver", (_FC,), ()),
    ("infortrend_iscsi", "infortrend.infortrend_iscsi_cli.InfortrendCLIISCSIDriver", (_ISCSI,), ()),
    ("instorage_fc", "inspur.instorage.instorage_fc.InStorageMCSFCDriver", (_FC,), ()),
    ("instorage_iscsi", "inspur.instorage.instorage_iscsi.InStorageMCSISCSIDriver", (_ISCSI,), ()),
    ("jovian_iscsi", "open_e.iscsi.JovianISCSIDriver", (_ISCSI,), ()),
    (
        "kaminario_iscsi",
        "kaminario.kaminario_iscsi.KaminarioISCSIDriver",
        (_ISCSI,),
        ("krest",),
    ),
    ("kumoscale", "kioxia.kumoscale.KumoScaleBaseVolumeDriver", (_NVME,), ()),
    ("lenovo_fc", "lenovo.lenovo_fc.LenovoFCDriver", (_FC,), ()),
    ("lenovo_iscsi", "lenovo.lenovo_iscsi.LenovoISCSIDriver", (_ISCSI,), ()),
    ("lightos", "lightos.LightOSVolumeDriver", (_NVME,), ()),
    ("linstor_drbd", "linstordrv.LinstorDrbdDriver", ("DRBD",), ("linstor",)),
    ("linstor_iscsi", "linstordrv.LinstorIscsiDriver", (_ISCSI,), ("linstor",)),
    ("lvm", "lvm.LVMVolumeDriver", (_ISCSI, _NVME), ()),
    ("macrosan_fc", "macrosan.driver.MacroSANFCDriver", (_FC,), ()),
    ("macrosan_iscsi", "macrosan.driver.MacroSANISCSIDriver", (_ISCSI,), ()),
    ("nec_m_fc", "nec.volume.MStorageFCDriver", (_FC,), ()),
    ("nec_m_iscsi", "nec.volume.MStorageISCSIDriver", (_ISCSI,), ()),
    ("nec_v_fc", "nec.v.nec_v_fc.VStorageFCDriver", (_FC,), ()),
    ("nec_v_iscsi", "nec.v.nec_v_iscsi.VStorageISCSIDriver", (_ISCSI,), ()),
    ("netapp_fc", "netapp.dataontap.fc_cmode.NetAppCmodeFibreChannelDriver", (_FC,), ()),
    ("netapp_iscsi", "netapp.dataontap.iscsi_cmode.NetAppCmodeISCSIDriver", (_ISCSI,), ()),
    ("netapp_nfs", "netapp.dataontap.nfs_cmode.NetAppCmodeNfsDriver", (_NFS,), ()),
    ("netapp_nvme", "netapp.dataontap.nvme_cmode.NetAppCmodeNVMeDriver", (_NVME,), ()),
    ("nexenta4_iscsi", "nexenta.iscsi.NexentaISCSIDriver", (_ISCSI,), ()),
    ("nexenta4_nfs", "nexenta.nfs.NexentaNfsDriver", (_NFS,), ()),
    ("nexenta5_iscsi", "nexenta.ns5.iscsi.NexentaISCSIDriver", (_ISCSI,), ()),
    ("nexenta5_nfs", "nexenta.ns5.nfs.NexentaNfsDriver", (_NFS,), ()),
    ("nfs", "nfs.NfsDriver", (_NFS,), ()),
    ("nimble_fc", "hpe.nimble.NimbleFCDriver", (_FC,), ()),
    ("nimble_iscsi", "hpe.nimble.NimbleISCSIDriver", (_ISCSI,), ()),
    ("powerflex", "dell_emc.powerflex.driver.PowerFlexDriver", ("ScaleIO",), ()),
    ("powerflex_base", "dell_emc.powerflex.driver.PowerFlexBaseDriver", ("ScaleIO",), ()),
    ("powerflex_nvme", "dell_emc.powerflex.driver.PowerFlexNVMeDriver", (_NVME,), ()),
    ("powermax_fc", "dell_emc.powermax.fc.PowerMaxFCDriver", (_FC,), ()),
    ("powermax_iscsi", "dell_emc.powermax.iscsi.PowerMaxISCSIDriver", (_ISCSI,), ()),
    ("powerstore", "dell_emc.powerstore.driver.PowerStoreDriver", (_ISCSI, _FC, _NVME), ()),
    ("powerstore_nfs", "dell_emc.powerstore.nfs.PowerStoreNFSDriver", (_NFS,), ()),
    ("powervault_fc", "dell_emc.powervault.fc.PVMEFCDriver", (_FC,), ()),
    ("powervault_iscsi", "dell_emc.powervault.iscsi.PVMEISCSIDriver", (_ISCSI,), ()),
    ("prophetstor_fc", "prophetstor.dpl_fc.DPLFCDriver", (_FC,), ()),
    ("prophetstor_iscsi", "prophetstor.dpl_iscsi.DPLISCSIDriver", (_ISCSI,), ()),
    ("pure_fc", "pure.PureFCDriver", (_FC,), ("pypureclient",)),
    ("pure_iscsi", "pure.PureISCSIDriver", (_ISCSI,), ("pypureclient",)),
    ("pure_nvme", "pure.PureNVMEDriver", (_NVME,), ("pypureclient",)),
    ("qnap", "qnap.QnapISCSIDriver", (_ISCSI,), ()),
    ("quobyte", "quobyte.QuobyteDriver", (_FILE,), ()),
    ("rbd", "rbd.RBDDriver", ("RBD",), ("rados", "rbd")),
    (
        "rbd_iscsi",
        "ceph.rbd_iscsi.RBDISCSIDriver",
        (_ISCSI,),
        ("rados", "rbd", "rbd_iscsi_client"),
    ),
    ("rsd", "rsd.RSDDriver", (_NVME,), ("rsd_lib",)),
    ("sandstone", "sandstone.sds_driver.SdsISCSIDriver", (_ISCSI,), ()),
    ("solidfire", "solidfire.SolidFireDriver", (_ISCSI,), ()),
    ("spdk", "spdk.SPDKDriver", (_NVME,), ()),
    ("storagecenter_fc", "dell_emc.sc.storagecenter_fc.SCFCDriver", (_FC,), ()),
    ("storagecenter_iscsi", "dell_emc.sc.storagecenter_iscsi.SCISCSIDriver", (_ISCSI,), ()),
    ("storpool", "storpool.StorPoolDriver", ("StorPool",), ()),
    ("storwize_fc", "ibm.storwize_svc.storwize_svc_fc.StorwizeSVCFCDriver", (_FC,), ()),
    ("storwize_iscsi", "ibm.storwize_svc.storwize_svc_iscsi.StorwizeSVCISCSIDriver", (_ISCSI,), ()),
    ("synology", "synology.synology_iscsi.SynoISCSIDriver", (_ISCSI,), ()),
    ("tatlin_fc", "yadro.tatlin_fc.TatlinFCVolumeDriver", (_FC,), ()),
    ("tatlin_iscsi", "yadro.tatlin_iscsi.TatlinISCSIVolumeDriver", (_ISCSI,), ()),
    ("tyds", "toyou.tyds.tyds.TYDSDriver", (_ISCSI,), ()),
    ("unity", "dell_emc.unity.driver.UnityDriver", (_ISCSI, _FC), ("storops",)),
    ("vast", "vastdata.driver.VASTVolumeDriver", (_NVME,), ()),
    ("veritas_access", "veritas_access.veritas_iscsi.ACCESSIscsiDriver", (_ISCSI,), ()),
    ("veritas_cnfs", "veritas_cnfs.VeritasCNFSDriver", (_NFS,), ()),
    ("vmstore_nfs", "vmstore.nfs.VmstoreNfsDriver", (_NFS,), ()),
    ("vmware_fcd", "vmware.fcd.VMwareVStorageObjectDriver", ("VMware",), ()),
    ("vmware_vmdk", "vmware.vmdk.VMwareVcVmdkDriver", ("VMware",), ()),
    ("vnx", "dell_emc.vnx.driver.VNXDriver", (_ISCSI, _FC), ("storops",)),
    ("vzstorage", "vzstorage.VZStorageDriver", (_FILE,), ()),
    ("xtremio_fc", "dell_emc.xtremio.XtremIOFCDriver", (_FC,), ()),
    ("xtremio_iscsi", "dell_emc.xtremio.XtremIOISCSIDriver", (_ISCSI,), ()),
    ("zadara", "zadara.zadara.ZadaraVPSAISCSIDriver", (_ISCSI,), ()),
)

ENTRIES: Mapping[str, Entry] = {
    entry.short_name: entry
    for entry in (
        Entry("file", FILE_DRIVER, (_FILE,)),
        *(Entry(short, CINDER + path, *rest) for short, path, *rest in _ROWS),
    )
}
"""Every driver that has a short name, by it."""

MOVED: Mapping[str, str] = {
    CINDER + old: CINDER + new
    for old, new in {
        "dell_emc.vmax.fc.VMAXFCDriver": "dell_emc.powermax.fc.PowerMaxFCDriver",
        "dell_emc.vmax.iscsi.VMAXISCSIDriver": "dell_emc.powermax.iscsi.PowerMaxISCSIDriver",
        "dell_emc.vxflexos.driver.VxFlexOSDriver": "dell_emc.powerflex.driver.PowerFlexDriver",
        "fujitsu.eternus_dx_fc.FJDXFCDriver": "fujitsu.eternus_dx.eternus_dx_fc.FJDXFCDriver",
        "fujitsu.eternus_dx_iscsi.FJDXISCSIDriver": (
            "fujitsu.eternus_dx.eternus_dx_iscsi.FJDXISCSIDriver"
        ),
        "nimble.NimbleFCDriver": "hpe.nimble.NimbleFCDriver",
        "nimble.NimbleISCSIDriver": "hpe.nimble.NimbleISCSIDriver",
        "zadara.ZadaraVPSAISCSIDriver": "zadara.zadara.ZadaraVPSAISCSIDriver",
    }.items()
}
"""Where classes went that Cinder still takes by their old name (``manager.MAPPING``)."""

_BY_PATH = {entry.path: entry for entry in ENTRIES.values()}


def path_of(driver: str) -> str:
    """The full class name of a ``volume_driver``: a short name, an old or a full one.

    :raises UnknownDriver: it is none; names the nearest short name.
    """
    if "." in driver:
        return MOVED.get(driver, driver)
    known = ENTRIES.get(driver.lower().replace("-", "_"))
    if known is not None:
        return known.path
    advice = "Give a short name from docs/drivers.md or the full name of a driver class"
    if not driver:
        raise UnknownDriver("No volume_driver is given", advice=advice)
    near = _nearest(driver.lower().replace("-", "_"))
    if near:
        advice = f"Did you mean {' or '.join(map(repr, near))}? {advice}"
    raise UnknownDriver(f"volume_driver is {driver!r}, which is no driver", advice=advice)


def _nearest(driver: str) -> list[str]:
    """Short names that say more of the same product; else the one that is most like it."""
    longer = [name for name in ENTRIES if name.startswith(f"{driver}_")]
    return longer or difflib.get_close_matches(driver, ENTRIES, n=1, cutoff=0.5)


def entry_of(path: str) -> Entry | None:
    """What is known of the class with this full name; None for a driver from elsewhere."""
    return _BY_PATH.get(path)
