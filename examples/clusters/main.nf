// nextflow run main.nf --reads reads.fastq.gz --run /shared/run --workers 100 --device cuda
// `run` is a folder that all hosts see, or an s3:// URL; not in the work directory of Nextflow.
params.workers = 4
params.device = 'cpu'

process plan {
    input: path reads
    output: val true
    script: "virnucpro plan ${reads.toRealPath()} -o ${params.run} --device ${params.device}"
}

process worker {
    errorStrategy 'ignore' // the others do its units
    cpus 1
    input: tuple val(number), val(planned)
    output: val number
    script: "virnucpro worker ${params.run} --threads ${task.cpus} --device ${params.device}"
}

process finish {
    input: val workers
    script: "virnucpro finish ${params.run}"
}

workflow {
    planned = plan(file(params.reads))
    finish(worker(Channel.of(1..params.workers).combine(planned)).collect())
}
