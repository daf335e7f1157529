/*
 * Stands where Firecracker would in the emulated machine of firecracker-conformance.sh --probe: makes a virtual
 * machine with /dev/kvm, lets it write one letter to a port and halt, and says so.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* mov dx, 0x3f8; mov al, 'K'; out dx, al; hlt */
static const uint8_t program[] = {0xba, 0xf8, 0x03, 0xb0, 'K', 0xee, 0xf4};

static int give_up(const char *what) {
  perror(what);
  return 1;
}

int main(void) {
  int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (kvm < 0) return give_up("/dev/kvm");
  int machine = ioctl(kvm, KVM_CREATE_VM, 0);
  if (machine < 0) return give_up("KVM_CREATE_VM");
  uint8_t *memory = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  memcpy(memory, program, sizeof program);
  struct kvm_userspace_memory_region region = {
      .guest_phys_addr = 0x1000, .memory_size = 0x1000, .userspace_addr = (uint64_t)memory};
  if (ioctl(machine, KVM_SET_USER_MEMORY_REGION, &region) < 0) return give_up("KVM_SET_USER_MEMORY_REGION");
  int cpu = ioctl(machine, KVM_CREATE_VCPU, 0);
  if (cpu < 0) return give_up("KVM_CREATE_VCPU");
  struct kvm_run *run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
  struct kvm_sregs segments;
  ioctl(cpu, KVM_GET_SREGS, &segments);
  segments.cs.base = segments.cs.selector = 0;
  ioctl(cpu, KVM_SET_SREGS, &segments);
  struct kvm_regs registers = {.rip = 0x1000, .rflags = 2};
  ioctl(cpu, KVM_SET_REGS, &registers);
  int wrote = 0;
  for (int exits = 0; exits < 16; exits++) {
    if (ioctl(cpu, KVM_RUN, 0) < 0) return give_up("KVM_RUN");
    if (run->exit_reason == KVM_EXIT_IO) wrote = ((char *)run)[run->io.data_offset] == 'K';
    if (run->exit_reason == KVM_EXIT_HLT) break;
  }
  puts(wrote ? "NESTED: a guest ran" : "NESTED: the guest did not run");
  return !wrote;
}
