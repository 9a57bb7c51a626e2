/* embed.c -- build tool: a file as a C array. embed NAME INPUT OUTPUT writes
 *     const unsigned char NAME[] = {...}; const size_t NAME_len = N;   (a NUL follows the last byte) */
#include <stdio.h>

static int embed(const char *name, FILE *in, FILE *out)
{
    size_t n = 0;
    int c;
    fprintf(out, "#include <stddef.h>\nextern const unsigned char %s[];\nextern const size_t %s_len;\n", name, name);
    fprintf(out, "const unsigned char %s[] = {", name);
    while ((c = getc(in)) != EOF)
        fprintf(out, "%s%d,", n++ % 24 ? "" : "\n", c);
    fprintf(out, "0};\nconst size_t %s_len = %zu;\n", name, n);
    return ferror(in) || ferror(out);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: embed NAME INPUT OUTPUT\n");
        return 2;
    }
    FILE *in = fopen(argv[2], "rb"), *out = fopen(argv[3], "wb");
    if (!in || !out) {
        perror(in ? argv[3] : argv[2]);
        return 1;
    }
    int bad = embed(argv[1], in, out);
    fclose(in);
    return fclose(out) || bad;
}
