process VIRNUCPRO_PREDICT {
    tag "$meta.id"
    label 'process_medium'

    conda "${moduleDir}/environment.yml"
    container "virnucpro:2.0.0"

    input:
    tuple val(meta), path(sequences)
    path(model_home)

    output:
    tuple val(meta), path("${prefix}/calls.tsv")          , emit: calls
    tuple val(meta), path("${prefix}/viral.fasta.gz")     , emit: viral
    tuple val(meta), path("${prefix}/chunks.tsv")         , emit: chunks
    tuple val(meta), path("${prefix}/regions.tsv")        , emit: regions
    tuple val(meta), path("${prefix}/regions.fasta.gz")   , emit: regions_fasta
    tuple val(meta), path("${prefix}/report.html")        , emit: report
    tuple val(meta), path("${prefix}/*_mqc.json")         , emit: multiqc
    tuple val(meta), path("${prefix}/run.json")           , emit: run
    path "versions.yml"                                   , emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix   = task.ext.prefix ?: "${meta.id}"
    def home = model_home ? "export VIRNUCPRO_MODEL_DIR=\$PWD/${model_home}" : ''
    """
    ${home}
    virnucpro predict \\
        ${sequences} \\
        --output-dir ${prefix} \\
        --threads ${task.cpus} \\
        --gzip-fasta \\
        --no-progress \\
        --force \\
        ${args}

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        virnucpro: \$(virnucpro --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    mkdir ${prefix}
    touch ${prefix}/{calls.tsv,chunks.tsv,regions.tsv,report.html,run.json}
    touch ${prefix}/{virnucpro_mqc.json,virnucpro_general_mqc.json}
    echo | gzip | tee ${prefix}/viral.fasta.gz > ${prefix}/regions.fasta.gz
    touch versions.yml
    """
}
