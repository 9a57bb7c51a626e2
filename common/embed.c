/* embed.c -- build tool: files, one behind the other, as a C array. embed NAME INPUT... OUTPUT writes
 *     const unsigned char NAME[] = {...}; const size_t NAME_len = N;   (a NUL follows the last byte) */
#include <stdio.h>

static int add_file(const char *path, FILE *out, size_t *n)
{
    FILE *in = fopen(path, "rb");
    int c;
    if (!in) {
        perror(path);
        return 1;
    }
    while ((c = getc(in)) != EOF)
        fprintf(out, "%s%d,", (*n)++ % 24 ? "" : "\n", c);
    int bad = ferror(in);
    fclose(in);
    return bad;
}

static int embed(const char *name, int n_in, char **in, FILE *out)
{
    size_t n = 0;
    int bad = 0;
    fprintf(out, "#include <stddef.h>\nextern const unsigned char %s[];\nextern const size_t %s_len;\n", name, name);
    fprintf(out, "const unsigned char %s[] = {", name);
    for (int i = 0; i < n_in && !bad; i++)
        bad = add_file(in[i], out, &n);
    fprintf(out, "0};\nconst size_t %s_len = %zu;\n", name, n);
    return bad || ferror(out);
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: embed NAME INPUT... OUTPUT\n");
        return 2;
    }
    FILE *out = fopen(argv[argc - 1], "wb");
    if (!out) {
        perror(argv[argc - 1]);
        return 1;
    }
    int bad = embed(argv[1], argc - 3, argv + 2, out);
    return fclose(out) || bad;
}
