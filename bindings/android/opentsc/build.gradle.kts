// An AAR of the bindings: the native library for each ABI by cargo-ndk, and the Kotlin code that uniffi-bindgen writes from it.
plugins {
    id("com.android.library")
    id("org.jetbrains.kotlin.android")
}

val workspace = rootDir.resolve("../..").canonicalFile
val abis = listOf("arm64-v8a", "armeabi-v7a", "x86_64")
val lowestApi = 26
// No OpenSSL: Android has none for applications. See docs/bindings.md.
val features = listOf("--no-default-features", "--features", "srv,dtls-webrtc")

val nativeLibraries = layout.buildDirectory.dir("cargo/jniLibs")
val generatedKotlin = layout.buildDirectory.dir("cargo/kotlin")

val buildNative by tasks.registering(Exec::class) {
    description = "Builds libtsc_uniffi.so for each ABI."
    val libraries = nativeLibraries.get().asFile
    workingDir = workspace
    commandLine(
        listOf("cargo", "ndk", "--platform", lowestApi.toString(), "--output-dir", libraries.path) +
            abis.flatMap { listOf("--target", it) } +
            listOf("build", "--release", "--locked", "-p", "tsc-bindings", "--lib") + features
    )
    outputs.dir(libraries)
    // Cargo knows what has changed.
    outputs.upToDateWhen { false }
}

val generateKotlin by tasks.registering(Exec::class) {
    description = "Writes the Kotlin code from the library's own description of itself."
    dependsOn(buildNative)
    val library = nativeLibraries.get().file("${abis.first()}/libtsc_uniffi.so").asFile
    val code = generatedKotlin.get().asFile
    workingDir = workspace
    commandLine(
        listOf("cargo", "run", "--release", "--locked", "-p", "tsc-bindings", "--bin", "uniffi-bindgen") +
            listOf("--no-default-features", "--features", "bindgen", "--") +
            listOf("generate", "--language", "kotlin", "--no-format", "--out-dir", code.path, library.path)
    )
    inputs.file(library)
    outputs.dir(code)
}

android {
    namespace = "org.opentsc"
    compileSdk = 35

    defaultConfig {
        // java.time, which the API uses for durations, is there from 26 on.
        minSdk = lowestApi
        ndk { abiFilters += abis }
        consumerProguardFiles("consumer-rules.pro")
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    kotlinOptions { jvmTarget = "17" }

    sourceSets["main"].apply {
        jniLibs.srcDir(nativeLibraries)
        kotlin.srcDir(generatedKotlin)
    }
}

tasks.named("preBuild") { dependsOn(generateKotlin) }

dependencies {
    // The AAR of JNA has its own native library for each ABI; the jar has not.
    api("net.java.dev.jna:jna:5.17.0@aar")
}
