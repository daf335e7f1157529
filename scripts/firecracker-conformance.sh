#!/bin/sh
# Runs the suite of all drivers under Firecracker, on a machine with KVM; with --nested, starts one machine
# inside QEMU with emulated AMD virtualisation; with --probe, only shows that the emulated machine can run guests,
# without any binary of Firecracker's. See docs/how-to/firecracker.md.
set -eu
cd "$(dirname "$0")/.."
node=$PWD/.toolchain/node/bin/node
if [ "${1:-}" != --probe ]; then
  : "${MIOSA_FIRECRACKER_BIN:?set it to the path of firecracker}"
  [ "${1:-}" = --nested ] || : "${MIOSA_JAILER_BIN:?set it to the path of jailer}"
fi
[ "$(id -u)" = 0 ] || { echo "Only root can start the jailer." >&2; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
kit=${MICROVM_DIR:-$scratch/kit}
[ -e "$kit/kernel" ] || "$node" apps/guest/build-microvm.ts "$kit"

if [ -z "${1:-}" ]; then
  : "${IMAGES_DIR:?set it to a folder of built images; CONFORMANCE_TEMPLATE names one, minimal if left out}"
  export IMAGES_DIR CONFORMANCE_TEMPLATE="${CONFORMANCE_TEMPLATE:-minimal}"
  [ -w /dev/kvm ] || { echo "/dev/kvm cannot be used here; try --nested." >&2; exit 1; }
  MICROVM_DIR=$kit FIRECRACKER_BIN=$MIOSA_FIRECRACKER_BIN JAILER_BIN=$MIOSA_JAILER_BIN CONFORMANCE_DRIVERS=firecracker \
    "$node" --test --test-concurrency=1 apps/host/src/drivers/conformance/*.test.ts
  exit
fi

# The outer machine: the same kernel with its modules for AMD's virtualisation, and a shell of busybox.
command -v qemu-system-x86_64 >/dev/null || { echo "apt-get install --no-install-recommends qemu-system-x86" >&2; exit 1; }
command -v busybox >/dev/null || { echo "apt-get install busybox-static" >&2; exit 1; }
version=$("$node" -p 'JSON.parse(require("fs").readFileSync(process.argv[1])).kernel' "$kit/microvm.json")
(cd "$scratch" && apt-get -o APT::Sandbox::User=root download "linux-image-$version" >/dev/null && dpkg -x linux-image-*.deb kernel)
modules=$scratch/kernel/lib/modules/$version/kernel
root=$scratch/root
mkdir -p "$root/bin" "$root/modules" "$root/vm" "$root/dev" "$root/proc" "$root/sys"
cp "$(command -v busybox)" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
cp "$modules/virt/lib/irqbypass.ko" "$modules/arch/x86/kvm/kvm.ko" "$modules/arch/x86/kvm/kvm-amd.ko" "$root/modules/"
[ ! -e "$modules/drivers/crypto/ccp/ccp.ko" ] || cp "$modules/drivers/crypto/ccp/ccp.ko" "$root/modules/"
if [ "$1" = --probe ]; then
  gcc -O1 -static -o "$root/vm/probe" scripts/kvm-probe.c
else
  cp "$MIOSA_FIRECRACKER_BIN" "$root/vm/firecracker"
fi
cp "$kit/kernel" "$kit/initrd" "$root/vm/"
cat >"$root/vm/config.json" <<'JSON'
{
  "boot-source": {
    "kernel_image_path": "/vm/kernel",
    "initrd_path": "/vm/initrd",
    "boot_args": "console=ttyS0 reboot=k panic=-1 pci=off box.port=vsock box.probe"
  },
  "drives": [],
  "machine-config": { "vcpu_count": 1, "mem_size_mib": 256 },
  "vsock": { "guest_cid": 3, "uds_path": "/vm/vsock.sock" }
}
JSON
cat >"$root/init" <<'SH'
#!/bin/sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev; $b mount -t proc proc /proc; $b mount -t sysfs sys /sys
for module in irqbypass kvm ccp kvm-amd; do [ ! -e /modules/$module.ko ] || $b insmod /modules/$module.ko; done
[ ! -e /vm/probe ] || { /vm/probe; $b poweroff -f; }
/vm/firecracker --no-api --config-file /vm/config.json &
# The guest's first process accepts on its vsock once it runs: the answer begins with OK.
tries=0
while [ $tries -lt 3600 ]; do
  answer=$(printf 'CONNECT 1024\n' | $b timeout 5 $b nc local:/vm/vsock.sock 2>/dev/null | $b head -n 1)
  case $answer in OK*) echo "NESTED: the guest answered"; $b poweroff -f;; esac
  tries=$((tries + 1)); $b sleep 1
done
echo "NESTED: no answer"; $b poweroff -f
SH
chmod 755 "$root/init"
(cd "$root" && find . | busybox cpio -o -H newc >"$scratch/initrd" 2>/dev/null)
timeout 7200 qemu-system-x86_64 -accel tcg -cpu max,+svm,+npt -M pc -m 1536 -nodefaults -no-user-config -display none \
  -no-reboot -serial stdio -kernel "$kit/kernel" -initrd "$scratch/initrd" -append "console=ttyS0 loglevel=4 no_timer_check panic=-1" |
  tee "$scratch/output"
[ "$1" = --probe ] && wanted="a guest ran" || wanted="the guest answered"
grep -q "NESTED: $wanted" "$scratch/output"
