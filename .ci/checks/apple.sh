#!/usr/bin/env bash
# What can be checked of the Apple side without a Mac, on Debian:
#
# 1. The driver, through real message sends on GNUstep, against stand-ins for Apple's classes: those of the folder
#    ../shared, written apart from anemone, and anemone's own; the failures again under valgrind.
# 2. The workspace linted for aarch64-apple-darwin and x86_64-apple-darwin, and the binary linked for the first, the one
#    that has an engine, against stub libraries.
#
# Neither is a Mac: nothing here shows that a symbol exists on macOS or that the engine computes what it should.
# Tools and builds are kept under target/apple.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

shared=${ANEMONE_SHARED:-../shared}/apple
if [[ ! -d $shared ]]; then
    printf 'skipped: there is no folder %s with the stand-ins and the set-up for the target\n' "$shared"
    exit 0
fi
if [[ $(uname -sm) != "Linux x86_64" ]] || ! command -v apt-get >/dev/null; then
    printf 'skipped: this check needs Debian on x86_64, this is %s\n' "$(uname -sm)"
    exit 0
fi
out=$PWD/target/apple
mkdir -p "$out"

# install PACKAGE...: installs those that are missing.
install() {
    local missing=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
    done
    ((${#missing[@]} == 0)) && return
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
packages=(clang-19 gobjc libgnustep-base-dev libblocksruntime-dev lld-19 valgrind)
command -v llvm-ar >/dev/null || packages+=(llvm)
install "${packages[@]}"

# --- 1. GNUstep
if [[ ! -e $out/stand-ins/libane_classes.so || $shared/standin/ane_standin.m -nt $out/stand-ins/libane_classes.so ]]; then
    "$shared/standin/build.sh" "$out/stand-ins"
fi
# objc2's exception helper asks for a runtime by the name clang has for it; GCC has but one.
cat >"$out/cc" <<'CC'
#!/bin/bash
args=()
for a in "$@"; do [[ $a == -fobjc-runtime=* ]] || args+=("$a"); done
exec gcc "${args[@]}"
CC
chmod +x "$out/cc"
foundation=$(ldd "$out/stand-ins/libane_classes.so" | awk '/libgnustep-base/ {print $3}')
# What the runtime itself never frees: classes and what belongs to their methods, what libraries and classes set up when
# they are first used. And a read of the dynamic linker's by words.
cat >"$out/valgrind.supp" <<'SUPP'
{
   methods that are added to classes
   Memcheck:Leak
   ...
   fun:class_addMethod
}
{
   types of methods, which are copied
   Memcheck:Leak
   ...
   fun:method_getTypeEncoding
}
{
   classes of a library
   Memcheck:Leak
   ...
   fun:call_init
}
{
   classes that NSTemporaryDirectory is the first to use
   Memcheck:Leak
   ...
   fun:NSTemporaryDirectory
}
{
   paths of libraries
   Memcheck:Addr8
   fun:strncmp
   fun:is_dst
}
SUPP
# Where nothing is debugged, nothing is written to be debugged with; nor is it taken out, which needs a tool that the
# toolchain for macOS lacks.
export CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_STRIP=none
(
    export CC=$out/cc CARGO_TARGET_DIR=$out/gnustep
    export RUSTFLAGS="-L native=$out/stand-ins -Clink-arg=-Wl,-rpath,$out/stand-ins"
    export ANEMONE_STAND_INS=$out/stand-ins/libane_classes.so ANEMONE_FOUNDATION=$foundation
    # All tests of a file are one process, which has more compiles here than the engine's.
    export ANE_STANDIN_LIMIT=1000
    # Both packages at once, so that the library is built once.
    tests=(test -p anemone -p anemone-cli
        --features anemone/gnustep,anemone/stand-ins,anemone-cli/gnustep --test stand_ins --test apple)
    printf '\n--- tests on GNUstep\n'
    cargo "${tests[@]}"
    printf '\n--- failures on GNUstep under valgrind\n'
    apple=$(cargo "${tests[@]}" --no-run --message-format=json |
        sed -n 's/.*"name":"apple".*"executable":"\([^"]*\)".*/\1/p')
    valgrind --quiet --error-exitcode=1 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
        --num-callers=50 --suppressions="$out/valgrind.supp" "$apple" --test-threads=1 \
        every_failure a_program_of_any_shape an_unload a_description
    printf '\n--- lint of the driver and its tests\n'
    cargo clippy -p anemone --features gnustep,stand-ins --lib --test stand_ins --test apple -- -D warnings
)

# --- 2. The targets
[[ -x $out/darwin/cargo-darwin ]] || "$shared/apple_target.sh" "$out/darwin"
# The stub libraries name arm64 alone.
grep -rlF 'targets:' --include='*.tbd' "$out/darwin/sdk" | xargs sed -i \
    '/x86_64-macos/! s/\[ arm64-macos, arm64e-macos \]/[ x86_64-macos, arm64-macos, arm64e-macos ]/'
# What macmon reads the energy with.
mkdir -p "$out/darwin/sdk/System/Library/Frameworks/IOKit.framework"
stub() {
    printf -- '--- !tapi-tbd\ntbd-version: 4\ntargets: [ x86_64-macos, arm64-macos, arm64e-macos ]\n'
    printf "install-name: '%s'\n...\n" "$1"
}
stub /usr/lib/libIOReport.dylib >"$out/darwin/sdk/usr/lib/libIOReport.tbd"
stub /System/Library/Frameworks/IOKit.framework/IOKit \
    >"$out/darwin/sdk/System/Library/Frameworks/IOKit.framework/IOKit.tbd"
export CARGO_TARGET_DIR=$out/darwin-target
for target in aarch64-apple-darwin x86_64-apple-darwin; do
    name=${target//-/_}
    export DARWIN_TARGET=$target "CC_$name=clang-19" "AR_$name=llvm-ar"
    printf '\n--- lint for %s\n' "$target"
    "$out/darwin/cargo-darwin" clippy --workspace --exclude xtask --features anemone/stand-ins -- -D warnings
done
# It is not run, and so not optimised.
export DARWIN_TARGET=aarch64-apple-darwin
printf '\n--- link for %s\n' "$DARWIN_TARGET"
"$out/darwin/cargo-darwin" build -p anemone-cli --config profile.dev.package.anemone.opt-level=0
file "$CARGO_TARGET_DIR/$DARWIN_TARGET/debug/anemone" | grep -F 'Mach-O 64-bit'
