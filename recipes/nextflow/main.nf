// nextflow run recipes/nextflow --input 'examples/*.fa' --outdir results
include { VIRNUCPRO_PREDICT } from './modules/nf-core/virnucpro/predict/main'

workflow {
    sequences = Channel
        .fromPath(params.input, checkIfExists: true)
        .map { file -> [[id: file.simpleName], file] }
    home = params.model_home ? file(params.model_home, checkIfExists: true) : []

    VIRNUCPRO_PREDICT(sequences, home)
    VIRNUCPRO_PREDICT.out.calls
        .map { meta, calls -> calls }
        .collectFile(name: 'calls.tsv', storeDir: params.outdir, keepHeader: true)
}
